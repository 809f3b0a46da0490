"""How the same mathematics is written for one kind of device or another."""

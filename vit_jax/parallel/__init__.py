"""Devices: the mesh, sharding rules, the two engines, many processes."""

"""Devices: the mesh, sharding rules, the two engines, runs on many processes."""

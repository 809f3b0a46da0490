"""Batches: the examples of each step, and how they are read."""

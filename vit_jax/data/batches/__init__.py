"""Batches: which examples, in which order, read how."""

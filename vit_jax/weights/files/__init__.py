"""Reads what others wrote: where weights are, their tensors, their JSON."""

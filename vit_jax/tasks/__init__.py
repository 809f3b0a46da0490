"""Tasks: what a training step computes."""

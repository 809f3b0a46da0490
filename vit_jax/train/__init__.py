"""Training: a run, its state, its steps and the loop."""

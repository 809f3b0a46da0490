"""The optimizers by name: each turns gradients into a direction, before the learning rate."""

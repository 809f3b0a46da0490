"""Commands that use trained weights, and the list of models."""

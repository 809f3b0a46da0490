"""Kinds of position embeddings and biases."""

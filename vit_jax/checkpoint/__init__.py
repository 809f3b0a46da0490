"""Checkpoints: a run's own, and the formats others publish."""

from vit_jax.checkpoint.load import ModelInfo, load, read_weights

__all__ = ["ModelInfo", "load", "read_weights"]

"""A run's own checkpoints; `load` reads them and published weights alike."""

from vit_jax.checkpoint.load import load, read_weights

__all__ = ["load", "read_weights"]

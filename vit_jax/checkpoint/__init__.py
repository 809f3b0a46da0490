"""Checkpoints of a run; `load` reads them and published weights."""

from vit_jax.checkpoint.load import load, read_weights

__all__ = ["load", "read_weights"]

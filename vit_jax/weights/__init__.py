"""Weights that others publish or read: in and out, strictly."""

from vit_jax.weights.fit import fit, refit
from vit_jax.weights.read import read
from vit_jax.weights.record import Weights
from vit_jax.weights.write import FORMATS, check_target, write

__all__ = ["FORMATS", "Weights", "check_target", "fit", "read", "refit", "write"]

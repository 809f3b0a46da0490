"""One file per format: its names, its JSON, its preprocessing and its writer."""

from vit_jax.weights.formats import google, huggingface, programs
from vit_jax.weights.formats.timm import vit as timm

__all__ = ["google", "huggingface", "programs", "timm"]

"""One file a format: its tables, what its JSON tells, preprocessing, and how it is written."""

from vit_jax.weights.formats import google, huggingface, programs, timm

__all__ = ["google", "huggingface", "programs", "timm"]

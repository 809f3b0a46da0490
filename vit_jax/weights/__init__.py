"""Published weight files: Google's .npz, timm's, Hugging Face's; in and out, strictly."""

from vit_jax.weights.read import read
from vit_jax.weights.record import Published, change
from vit_jax.weights.write import FORMATS, write

__all__ = ["FORMATS", "Published", "change", "read", "write"]

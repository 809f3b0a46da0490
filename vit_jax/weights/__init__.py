"""Published weight files: Google's .npz, timm's, Hugging Face's; in and out, strictly."""

from vit_jax.checkpoint.convert.change import Published, change
from vit_jax.checkpoint.convert.read import read
from vit_jax.checkpoint.convert.write import FORMATS, write

__all__ = ["FORMATS", "Published", "change", "read", "write"]

"""Published weight files: Google's .npz, timm's, Hugging Face's; in and out, strictly."""

from vit_jax.checkpoint.convert.read import Published, read

__all__ = ["Published", "read"]

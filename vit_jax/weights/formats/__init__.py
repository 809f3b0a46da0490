"""One file or folder per format: its names, its JSON, its preprocessing and its writer."""

# isort: skip_file
# Families are tried in the order of these imports.
from vit_jax.weights.formats import authors, google, huggingface, onnx_program, programs
from vit_jax.weights.formats.timm import vit as timm
from vit_jax.weights.formats.open_clip import clip as open_clip
from vit_jax.weights.formats.open_clip import timm_tower
from vit_jax.weights.formats.authors import perception_tokens

__all__ = [
    "authors",
    "google",
    "huggingface",
    "onnx_program",
    "open_clip",
    "perception_tokens",
    "programs",
    "timm",
    "timm_tower",
]

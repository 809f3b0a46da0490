"""Meta's own files of MAE (2111.06377) with its decoder.

Files of the encoder alone, and fine-tuned ones, have the names of timm and are read as its files.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.authors.names import PACKED, TABLE, unread
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration that are the same in all models."""
    return dict(norm_eps=1e-6, gelu="erf", head="token", notes=unread(found))


def _recipe(found: Recognised) -> Recipe:
    del found
    return Recipe(224 / 256, False, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD, truncate=True)


FAMILIES.add(
    "MAE",
    Family(
        ("decoder_embed.weight", "patch_embed.proj.weight", "blocks.0.norm1.weight"),
        TABLE | PACKED,
        _hints,
        _recipe,
        # The mask token has the decoder's width.
        unused=r"decoder_.+|mask_token",
    ),
)

"""Apple's own files of AIMv2 (2411.14402)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import FAMILIES, QKV, Family, Recognised
from vit_jax.weights.formats.open_clip.names import CLIP_MEAN, CLIP_STD
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe

_LAYER = "trunk.blocks.{l}"
_TABLE: Table = {
    **dense("embedding", "preprocessor.patchifier.proj", "dipq", "d"),
    **norm("patch_norm", "preprocessor.patchifier.norm"),
    "posemb/embedding": ("preprocessor.pos_embed", "1nd"),
    **norm("blocks/norm1", f"{_LAYER}.norm_1"),
    **dense("blocks/attention/qkv", f"{_LAYER}.attn.qkv", "(thk)d", "(thk)"),
    **dense("blocks/attention/out", f"{_LAYER}.attn.proj", "d(hk)", "d"),
    **norm("blocks/norm2", f"{_LAYER}.norm_2"),
    # fc1 is the gate, fc3 the value, fc2 the last layer.
    **dense("blocks/mlp/gated", f"{_LAYER}.mlp.fc{{g}}", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.mlp.fc2", "dm", "d"),
    **norm("norm", "trunk.post_trunk_norm"),
}
_WIDTHS = (1024, 1536, 2048, 3072)


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration that are the same in all models."""
    width = found.tensors["preprocessor.patchifier.proj.weight"].shape[0]
    result = dict(
        num_heads=width // 128 if width in _WIDTHS else None,
        norm_eps=1e-5,
        gelu="erf",  # the MLPs are gated and have no GELU
        head="gap",
    )
    if "preprocessor.pos_embed" not in found.tensors:  # the models for images of any size
        result |= dict(posemb="sincos2d(endpoint=False)", image_size=(224, 224))
    return result


def _recipe(found: Recognised) -> Recipe:
    del found
    return Recipe(1.0, False, "bicubic", True, CLIP_MEAN, CLIP_STD, truncate=True)


FAMILIES.add(
    "Apple's AIMv2",
    Family(
        ("preprocessor.patchifier.proj.weight", "trunk.post_trunk_norm.weight"),
        _TABLE,
        _hints,
        _recipe,
        words=QKV | dict(g=("1", "3")),
    ),
)

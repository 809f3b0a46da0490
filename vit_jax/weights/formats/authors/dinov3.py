"""Meta's own files of DINOv3 (2508.10104)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.weights.families import FAMILIES, QKV, Family, Recognised
from vit_jax.weights.formats.authors.names import PACKED, TABLE, split, unread
from vit_jax.weights.formats.rows import dense
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe

_BASE = 100.0
_TABLE: Table = {
    **TABLE,
    **PACKED,
    "blocks/attention/query_value/bias": ("blocks.{l}.attn.{j}_bias", "(hk)"),
    "registers": ("storage_tokens", "1rd"),
    "blocks/scale1": ("blocks.{l}.ls1.gamma", "d"),
    # In the gated MLP, w1 is the gate, w2 the value, w3 the last layer.
    **dense("blocks/mlp/gated", "blocks.{l}.mlp.{g}", "md", "m"),
    "blocks/scale2": ("blocks.{l}.ls2.gamma", "d"),
}
_PERIODS = "rope_embed.periods"
_SATELLITE = Recipe(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143))


def _regroup(tensors: dict[str, np.ndarray], original: dict[str, str]) -> None:
    """Takes the biases of queries and values out of those that a mask takes from the keys."""
    for name in [name for name in tensors if name.endswith(".attn.qkv.bias_mask")]:
        attention = name.removesuffix("qkv.bias_mask")
        mask = np.asarray(tensors[name], np.float32)
        bias = tensors.get(f"{attention}qkv.bias")
        if bias is None or bias.shape != mask.shape or mask.size % 3:
            continue  # an error about the tensors follows
        if (mask.reshape(3, -1) != [[1.0], [0.0], [1.0]]).any():
            raise InputError(f"{original[name]} masks more or less than the biases of the keys")
        del tensors[name], original[name]
        parts = [f"{attention}{part}_bias" for part in "qkv"]
        split(f"{attention}qkv.bias", parts, tensors, original)
        del tensors[parts[1]], original[parts[1]]


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration that are the same in all models.

    Raises:
      InputError: the stored periods of the rotary embedding are others.
    """
    periods = np.asarray(found.tensors.pop(_PERIODS), np.float32)
    ours = _BASE ** (np.arange(periods.size) / periods.size)
    # bfloat16 keeps 8 bits of them.
    if periods.ndim != 1 or not np.allclose(periods, ours, rtol=2**-7):
        raise InputError(
            f"{found.path}: {found.original[_PERIODS]} are not those of base {_BASE:g}, as in all "
            "of DINOv3; this rotary embedding is not supported"
        )
    found.original.pop(_PERIODS)
    notes = [f"{_PERIODS} are of base {_BASE:g}; they are computed here in full precision"]
    notes += unread(found)
    if any(name.endswith(".attn.q_bias") for name in found.tensors):
        notes.append("the biases of keys, which bias_mask sets to 0, are left out")
    width = found.tensors["patch_embed.proj.weight"].shape[0]
    return dict(
        num_heads=width // (4 * periods.size),
        norm_eps=1e-5,
        gelu="erf",
        head="token",
        posemb="none",
        rotary="centred(rescale=2.0)",
        image_size=(224, 224),
        notes=notes,
    )


def _recipe(found: Recognised) -> Recipe:
    """ImageNet's mean and standard deviation, or those of satellite images (SAT-493M)."""
    if "sat493m" in found.path:
        return _SATELLITE
    unclear = any(name.endswith("local_cls_norm.weight") for name in found.unused)
    mean, std = _SATELLITE.mean, _SATELLITE.std
    note = f"if these are weights of satellite images, prepare by normalize(mean={mean}, std={std})"
    return Recipe(mean=IMAGENET_MEAN, std=IMAGENET_STD, notes=(note,) if unclear else ())


FAMILIES.add(
    "Meta's DINOv3",
    Family(
        (_PERIODS, "patch_embed.proj.weight", "blocks.0.norm1.weight"),
        _TABLE,
        _hints,
        _recipe,
        ("", "backbone.", "model."),
        ((r"\.mlp\.w3\.", ".mlp.fc2."), (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.")),
        aside="mask_token",
        # The norm of local crops; projections of distillation.
        unused=r"local_cls_norm\..+|projectors\..+|(dino|ibot)_head\..+",
        regroup=_regroup,
        words=QKV | dict(j="qv", g=("w1", "w2")),
    ),
)

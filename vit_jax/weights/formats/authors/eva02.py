"""BAAI's own files of EVA-02 (2303.11331)."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.weights.families import FAMILIES, QKV, Family, Recognised
from vit_jax.weights.formats.authors.names import TABLE, split, unread
from vit_jax.weights.formats.open_clip.names import CLIP_MEAN, CLIP_STD
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe

_TABLE: Table = {
    **TABLE,
    "blocks/attention/qkv/kernel": ("blocks.{l}.attn.{t}_proj.weight", "(hk)d"),
    "blocks/attention/query_value/bias": ("blocks.{l}.attn.{j}_bias", "(hk)"),
    **norm("blocks/attention/norm", "blocks.{l}.attn.inner_attn_ln"),
    # In the gated MLP, w1 is the gate, w2 the value, w3 the last layer.
    **dense("blocks/mlp/gated", "blocks.{l}.mlp.{g}", "md", "m"),
    **norm("blocks/mlp/norm", "blocks.{l}.mlp.ffn_ln", "m"),
}
_COSINES, _SINES = "rope.freqs_cos", "rope.freqs_sin"
_REFERENCE = 16  # rows and columns of patches at which the models were pre-trained


def _regroup(tensors: dict[str, np.ndarray], original: dict[str, str]) -> None:
    """Splits what the smaller models pack; takes out tables that blocks hold again."""
    for name in list(tensors):
        block, _, end = name.rpartition(".")
        if name.endswith(".attn.qkv.weight"):
            attention = block.removesuffix("qkv")
            split(name, [f"{attention}{t}_proj.weight" for t in "qkv"], tensors, original)
        elif block.endswith(".mlp.w12"):
            mlp = block.removesuffix("w12")
            split(name, [f"{mlp}{part}.{end}" for part in ("w1", "w2")], tensors, original)
        elif ".attn.rope.freqs_" in name:
            shared = tensors.get(f"rope.{end}")
            if shared is not None and np.array_equal(shared, tensors[name]):
                del tensors[name], original[name]


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration that are the same in all models.

    Raises:
      InputError: the stored table of the rotary embedding is another one.
    """
    cosines, sines = (np.asarray(found.tensors.pop(name)) for name in (_COSINES, _SINES))
    width = found.tensors["patch_embed.proj.weight"].shape[0]
    if cosines.ndim != 2 or not all(map(_is_ours, (cosines, sines), (np.cos, np.sin))):
        raise InputError(
            f"{found.path}: {found.original[_COSINES]} is not the rotary embedding of EVA-02 for a "
            "square image; it is not supported"
        )
    for name in (_COSINES, _SINES):
        found.original.pop(name)
    return dict(
        num_heads=width // cosines.shape[1],
        norm_eps=1e-6,
        gelu="erf",  # the MLPs are gated and have no GELU
        head="gap",
        pool_then_norm=True,
        rotary=f"indexed(reference={_REFERENCE})",
        notes=("the cosines and sines in the file are those computed here", *unread(found)),
    )


def _is_ours(table: np.ndarray, function: Any) -> bool:
    """Whether a table (patches, head width) is that of our rotary embedding."""
    side, quarter = math.isqrt(table.shape[0]), table.shape[1] // 4
    if side * side != table.shape[0] or 4 * quarter != table.shape[1]:
        return False
    angles = np.outer(np.arange(side) * _REFERENCE / side, 1e4 ** (-np.arange(quarter) / quarter))
    angles = np.repeat(angles, 2, axis=1)  # each for a pair of numbers
    rows, columns = np.repeat(angles, side, axis=0), np.tile(angles, (side, 1))
    return np.allclose(table, function(np.concatenate([rows, columns], axis=1)), atol=4e-3)


def _recipe(found: Recognised) -> Recipe:
    del found
    return Recipe(method="bicubic", mean=CLIP_MEAN, std=CLIP_STD)


FAMILIES.add(
    "EVA-02",
    Family(
        (_COSINES, _SINES, "patch_embed.proj.weight", "blocks.0.attn.q_bias"),
        _TABLE,
        _hints,
        _recipe,
        renames=((r"\.mlp\.w3\.", ".mlp.fc2."), (r"^fc_norm\.", "norm.")),
        aside="mask_token",
        unused=r"lm_head\..+",
        regroup=_regroup,
        words=QKV | dict(t="qkv", j="qv", g=("w1", "w2")),
    ),
)

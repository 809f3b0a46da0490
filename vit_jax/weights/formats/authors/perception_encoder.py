"""Meta's own files of the Perception Encoder (2504.13181)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.authors.names import unread
from vit_jax.weights.formats.open_clip.names import OTHER, tower
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe

# Width -> heads, which tensors do not show: T, S, B, L, G.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1536: 16}
_IN_PROJ = "attn_pool.attn.in_proj_"


def _table(prefix: str) -> Table:
    pool = f"{prefix}attn_pool"
    return {
        **tower(prefix),
        "map_head/probe": (f"{pool}.probe", "11d"),
        "map_head/query/kernel": (f"{pool}.attn.q_weight", "(HK)d"),
        "map_head/query/bias": (f"{pool}.attn.q_bias", "(HK)"),
        "map_head/key_value/kernel": (f"{pool}.attn.kv_weight", "(uHK)d"),
        "map_head/key_value/bias": (f"{pool}.attn.kv_bias", "(uHK)"),
        **dense("map_head/out", f"{pool}.attn.out_proj", "d(HK)", "d"),
        **norm("map_head/norm", f"{pool}.layernorm"),
        **dense("map_head/mlp/fc1", f"{pool}.mlp.c_fc", "Md", "M"),
        **dense("map_head/mlp/fc2", f"{pool}.mlp.c_proj", "dM", "d"),
    }


def _unpack(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Takes the query of the attention pooling out of what is packed with keys and values."""
    before, packed, kind = name.partition(_IN_PROJ)
    if not packed or array.shape[0] % 3:
        return [(name, array)]
    rows = array.shape[0] // 3
    attention = f"{before}attn_pool.attn."
    return [(f"{attention}q_{kind}", array[:rows]), (f"{attention}kv_{kind}", array[rows:])]


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration that are the same in all models."""
    prefix = "visual." if "visual.conv1.weight" in found.tensors else ""
    token = f"{prefix}class_embedding" in found.tensors
    pooled = f"{prefix}attn_pool.probe" in found.tensors
    width = found.tensors[f"{prefix}conv1.weight"].shape[0]
    hints = dict(
        num_heads=_HEADS.get(width),
        norm_eps=1e-5,
        gelu="erf",
        # Positions count from 1 where the class token has 0. They are not scaled to other sizes.
        rotary=f"indexed(offset={float(token)}, order='xy')",
        head="map" if pooled else "gap",
    )
    if pooled:
        return hints | dict(map_heads=8, pool_prefix=token, notes=unread(found))
    note = "the file has no pooling: features are the mean of the patches"
    return hints | dict(notes=(note, *unread(found)))


def _recipe(found: Recognised) -> Recipe:
    del found
    return Recipe()


def add(title: str, *signature: str) -> None:
    """Registers a family, once with the names of a whole file, once with those of a tower."""
    for prefix, which in (("visual.", ""), ("", ", image tower")):
        FAMILIES.add(
            title + which,
            Family(
                tuple(prefix + name for name in signature),
                _table(prefix),
                _hints,
                _recipe,
                other=OTHER if prefix else "(?!)",  # a tower alone begins names as texts do
                unpack=_unpack,
                resample="bilinear",
            ),
        )


add("Perception Encoder", "conv1.weight", "attn_pool.probe")

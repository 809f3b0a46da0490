"""timm's NaFlexVit: ViTs for images of any size and aspect ratio (2307.06304)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.naflex import METHODS
from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.timm import config
from vit_jax.weights.formats.timm.arguments import READERS
from vit_jax.weights.formats.timm.names import RENAMES as TIMM_RENAMES
from vit_jax.weights.preprocessing import Recipe

_PROJECTION = "patch_embed.proj.weight"
RENAMES = (
    (r"^embeds\.(proj|norm)\.", r"patch_embed.\1."),
    (r"^embeds\.(cls_token|reg_token|pos_embed)$", r"\1"),
    *TIMM_RENAMES,
)
# Arguments of NaFlexVitCfg that have to have the default, as the models here compute.
_ONLY: dict[str, Any] = dict(
    pos_embed="learned",
    pos_embed_ar_preserving=False,
    pos_embed_antialias=True,
    pos_embed_align_corners=False,
    pos_embed_use_grid_sample=False,
    embed_proj_type="linear",
    input_norm_layer=None,
    patchify_channels_last=True,
    enable_patch_interpolator=False,
    attn_type="standard",
    attn_gated=False,
    attn_only_layer_scale=False,
    attn_pool_num_heads=None,
    num_kv_heads=None,
    qkv_fused=True,
    swiglu_mlp=False,
    rope_type="",
)
# What changes nothing without the parts above, or is seen in the tensors.
_IGNORED = (
    *("attn_pool_mlp_ratio", "swiglu_align_to", "use_key_only_attn_mask", "rope_temperature"),
    *("rope_ref_feat_shape", "rope_grid_offset", "rope_grid_indexing", "rope_rotate_half"),
    *("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "rope_mrope_section"),
)


def unpack(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The patch embedding (D, p p 3) as a convolution's kernel, positions (1, R, C, D) in a row."""
    if name == _PROJECTION and array.ndim == 2:
        side = math.isqrt(array.shape[1] // 3)
        if side * side * 3 == array.shape[1]:
            patches = array.reshape(len(array), side, side, 3)
            array = np.ascontiguousarray(patches.transpose(0, 3, 1, 2))
    if name == "pos_embed" and array.ndim == 4:
        array = array.reshape(1, -1, array.shape[-1])
    return [(name, array)]


def hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the model's configuration; see `config.hints`.

    Raises:
      InputError: there is no config.json, or it asks for something the models here do not have.
    """
    if "config.json" not in found.configs:
        raise InputError(
            f"{found.path}: it is of timm's NaFlexVit; put timm's config.json beside it"
        )
    return dict(config.hints(found)) | dict(naflex=recipe(found).naflex[0])


def recipe(found: Recognised) -> Recipe:
    """The preprocessing; as many patches as an image of `input_size` has."""
    prepared = config.recipe(found)
    side = found.tensors[_PROJECTION].shape[-1]
    height, width = prepared.size or (24 * side, 24 * side)
    if prepared.method not in METHODS:
        raise InputError(
            f"{found.path}: config.json: interpolation is {prepared.method!r}; it is not "
            f"supported, only {' or '.join(METHODS)}"
        )
    patches = (height // side) * (width // side)
    note = "images are fitted to the patches by SigLIP 2's rule here, which differs from timm's"
    return dataclasses.replace(prepared, size=None, naflex=(patches, side), notes=(note,))


def _read(found: Recognised, arguments: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of NaFlexVitCfg."""
    for name, usual in _ONLY.items():
        arguments.only(name, usual)
    resize = arguments.only("pos_embed_interp_mode", "bicubic", "bilinear")
    grid = arguments.size("pos_embed_grid_size", (16, 16))
    attention_norm = arguments.take("scale_attn_inner_norm", bool, False)
    arguments.ignore(_IGNORED)
    rest = {key: value for key, value in arguments.rest().items() if value is not None}
    positions = found.tensors.get("pos_embed")
    if grid is None or positions is None or positions.shape[1] != math.prod(grid):
        raise arguments.error("pos_embed_grid_size", grid, "the file's pos_embed has another grid")
    as_vit = dict(global_pool="map", class_token=False) | rest
    as_vit |= dict(pos_embed="learn", no_embed_class=True, scale_attn_norm=attention_norm)
    fields = READERS["vit"](found, Fields(as_vit, arguments.where), saved)
    rows, columns = fields["patch_size"]
    size = (grid[0] * rows, grid[1] * columns)
    return fields | dict(image_size=size, naflex_resize=resize)


READERS["naflex"] = _read

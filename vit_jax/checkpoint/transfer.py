"""Fine-tuning: pre-trained parameters fitted to a model of another size and task."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vit_jax.checkpoint.resample import resample_posemb
from vit_jax.errors import InputError

POSEMB = "posemb/embedding"
# Options that change what the same parameters compute: where programs differ, points get lost.
MEANING = ("gelu", "norm_eps", "resnet_norm_eps", "resnet_conv_eps", "pool_then_norm")


def transfer(
    source: Any,
    target: Any,
    *,
    source_config: Any,
    target_config: Any,
    skip: Sequence[str] = ("head/.*", "pre_logits/.*"),
    method: str = "bilinear_align_corners",
) -> dict[str, Any]:
    """The pre-trained parameters that a new model takes over (section 3.2).

    The position embedding is resampled in two dimensions to the new grid, with the
    class token's entry set aside. Everything else must be there and fit.

    Args:
      source: nested dict of pre-trained arrays.
      target: nested dict of the new model's ShapeDtypeStructs.
      source_config: ViTConfig of the pre-trained model.
      target_config: ViTConfig of the new model.
      skip: patterns of parameter paths that start afresh and are not taken over.
      method: see `resample_posemb`.

    Returns:
      Path -> array, for every parameter of the new model that is not skipped.

    Raises:
      InputError: lists what is missing, unexpected or misshapen, with both shapes; or
        names an option under which the parameters would compute something else.
    """
    _check_meaning(source_config, target_config)
    have = _flatten(source, skip)
    want = _flatten(target, skip)
    if POSEMB in have and POSEMB in want and source_config.grid != target_config.grid:
        have[POSEMB] = resample_posemb(
            np.asarray(have[POSEMB]),
            source_config.grid,
            target_config.grid,
            has_class_slot=source_config.posemb_slots,
            method=method,
        )
    problems = [
        f"{path}: checkpoint {_shape(have.get(path))}, model {_shape(want.get(path))}"
        for path in sorted(have.keys() | want.keys())
        if _shape(have.get(path)) != _shape(want.get(path))
    ]
    if problems:
        raise InputError(
            "init_from does not fit config.model (config.init_skip leaves parameters out): "
            + "; ".join(problems)
        )
    return have


def _check_meaning(source_config: Any, target_config: Any) -> None:
    for field in MEANING:
        was, is_now = (getattr(config, field, None) for config in (source_config, target_config))
        if was != is_now:
            raise InputError(
                f"init_from was trained with {field} {was!r}, config.model.{field} is {is_now!r}; "
                f"set --config.model.{field}={was}"
            )


def replace(params: Any, loaded: dict[str, Any]) -> Any:
    """`params` with the arrays of `loaded`, in the layout that `params` has."""

    def place(path, leaf):
        array = loaded.get("/".join(key.key for key in path))
        if array is None:
            return leaf
        array = np.asarray(array, leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    return jax.tree_util.tree_map_with_path(place, params)


def _flatten(tree: Any, skip: Sequence[str]) -> dict[str, Any]:
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {
        path: leaf
        for path, leaf in flat.items()
        if not any(re.fullmatch(pattern, path) for pattern in skip)
    }


def _shape(leaf: Any) -> tuple[int, ...] | str:
    return "has none" if leaf is None else tuple(leaf.shape)

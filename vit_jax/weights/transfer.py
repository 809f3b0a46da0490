"""Fine-tuning: pre-trained parameters fitted to a model of another size and task."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax.errors import InputError
from vit_jax.trees import name_patterns, path_name
from vit_jax.weights.resample import resample_positions

# Options that change what the same parameters compute: where programs differ, points get lost.
MEANING = (
    "gelu",
    "norm_eps",
    "resnet_norm_eps",
    "resnet_conv_eps",
    "pool_then_norm",
    "posemb",
    "posemb_where",
)


def transfer(
    source: Any,
    target: Any,
    *,
    source_config: Any,
    target_config: Any,
    skip: Sequence[str] = ("head/.*", "pre_logits/.*"),
    method: str = "bilinear_align_corners",
) -> tuple[dict[str, Any], list[str]]:
    """The pre-trained parameters that a new model takes over (section 3.2).

    Position embeddings are resampled in two dimensions to the new grid, with the class
    token's entry set aside. Everything else must be there and fit.

    Args:
      source: nested dict of pre-trained arrays.
      target: nested dict of the new model's ShapeDtypeStructs.
      source_config: ViTConfig of the pre-trained model.
      target_config: ViTConfig of the new model.
      skip: patterns of parameter paths that start afresh and are not taken over.
      method: see `resample_posemb`.

    Returns:
      Path -> array, for every parameter of the new model that is not skipped, and lines
      that account for all parameters of both.

    Raises:
      InputError: lists what is missing, unexpected or misshapen, with both shapes; or
        names an option under which the parameters would compute something else.
    """
    _check_meaning(source_config, target_config)
    have, left_out = _split(source, skip)
    want, afresh = _split(target, skip)
    resized = resample_positions(have, source_config, target_config, method)
    report = [
        f"resized: {path} {_shape(have[path])} -> {_shape(array)}, {method}"
        for path, array in resized.items()
    ]
    have |= resized
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
    report += [f"left out (config.init_skip): {path}" for path in sorted(left_out)]
    report += [f"starts afresh: {path} {_shape(afresh[path])}" for path in sorted(afresh)]
    return have, [f"{len(have)} parameters taken over", *report]


def other_normalization(pp: str, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """A line where a run normalises images otherwise than those that weights were trained on.

    Args:
      pp: how the weights want images prepared.
      mean, std: of the run.
    """
    from vit_jax.data import parse

    was = parse(pp)
    if np.allclose((was.mean, was.std), (mean, std), atol=1e-6):
        return []
    return [
        f"note: the weights know images prepared by {pp}; config.data.pp normalises with "
        f"mean {tuple(mean)}, std {tuple(std)}"
    ]


def _check_meaning(source_config: Any, target_config: Any) -> None:
    for field in MEANING:
        was, is_now = (getattr(config, field, None) for config in (source_config, target_config))
        if was != is_now:
            raise InputError(
                f"init_from was trained with {field} {was!r}, config.model.{field} is {is_now!r}; "
                f"set --config.model.{field}={was}"
            )


def check_finite(params: dict[str, Any], source: str) -> None:
    """Refuses weights with which no training can begin.

    Args:
      params: path -> array.
      source: where they are from.

    Raises:
      InputError: names a parameter with NaNs or infinities.
    """

    def is_finite(array):  # where the array is
        return (jnp if isinstance(array, jax.Array) else np).isfinite(array).all()

    finite = jax.device_get({path: is_finite(array) for path, array in params.items()})
    if bad := [path for path, fine in finite.items() if not fine]:
        more = f" and {len(bad) - 1} more parameters" if len(bad) > 1 else ""
        raise InputError(
            f"init_from: {source} has values that are not finite in {bad[0]}{more}; "
            "take another checkpoint"
        )


def replace(params: Any, loaded: dict[str, Any]) -> Any:
    """`params` with the arrays of `loaded`, in the layout that `params` has."""

    def place(path, leaf):
        array = loaded.get(path_name(path))
        if array is None:
            return leaf
        if isinstance(array, jax.Array) and array.sharding == leaf.sharding:
            # Averages begin as a copy: the step reuses the memory of both.
            return jax.device_put(array.astype(leaf.dtype), leaf.sharding, may_alias=False)
        array = np.asarray(array, leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    return jax.tree_util.tree_map_with_path(place, params)


def _split(tree: Any, skip: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Path -> leaf of what `skip` does not match, and of what it does."""
    patterns = name_patterns(skip, "config.init_skip")
    kept, skipped = {}, {}
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        matches = any(pattern.fullmatch(path) for pattern in patterns)
        (skipped if matches else kept)[path] = leaf
    return kept, skipped


def _shape(leaf: Any) -> tuple[int, ...] | str:
    return "has none" if leaf is None else tuple(leaf.shape)

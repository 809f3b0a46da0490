"""Fits weights to another model: other resolution, other classes (section 3.2)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax import models, options
from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.text import some
from vit_jax.trees import name_patterns, path_name
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights, parameter_shapes
from vit_jax.weights.resample import resample_positions

HEADS = ("head/.*", "head_dist/.*")


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Parameters for another model.

    Attributes:
      params: path -> array of parameters that come from the weights.
      fresh: path -> shape of parameters that have to be initialised.
      report: lines that account for all parameters of both models.
    """

    params: dict[str, Any]
    fresh: dict[str, tuple[int, ...]]
    report: list[str]


def fit(
    params: Mapping[str, Any],
    stored: ModelConfig,
    wanted: ModelConfig,
    *,
    resample: str = "bilinear_align_corners",
    skip: Sequence[str] = (),
    target: Mapping[str, tuple[int, ...]] | None = None,
    allow_change: bool = False,
) -> Fitted:
    """Fits parameters of one model to another.

    Position embeddings are resampled in two dimensions to the new grid; the class token's
    entry stays as it is. All other parameters must be present and have the right shape.

    Args:
      params: path -> array.
      stored: configuration of the model that they belong to.
      wanted: configuration of the other model.
      resample: method of `resample_posemb`.
      skip: patterns of paths of parameters that are initialised, not taken from the weights.
      target: path -> shape of the other model's parameters; None: those of `wanted`.
      allow_change: whether to accept options with which the same parameters compute something
        else.

    Raises:
      InputError: parameters are missing, unexpected or have another shape (the message lists
        them with both shapes), or an option would make the parameters compute something else.
    """
    names = models.identify(stored)[0], models.identify(wanted)[0]
    if type(stored) is not type(wanted):
        raise InputError(f"the weights are of {names[0]}, the model is {names[1]}")
    have, left_out = _split(params, skip)
    want, fresh = _split(parameter_shapes(wanted) if target is None else target, skip)
    resized = resample_positions(have, stored, wanted, resample)
    report = [
        f"resized: {path} {_shape(have[path])} -> {_shape(array)}, {resample}"
        for path, array in resized.items()
    ]
    have |= resized
    problems = [
        f"{path}: weights {_shape(have.get(path))}, model {want.get(path, 'has none')}"
        for path in sorted(have.keys() | want.keys())
        if _shape(have.get(path)) != want.get(path, "")
    ]
    if problems:
        options = ", ".join(_difference(stored, wanted, "structure"))
        raise InputError(
            f"the weights do not fit the model{': ' if options else ''}{options}; "
            + some(problems, 4, "; ")
        )
    differ = _difference(stored, wanted, "network", "computation")
    if differ and not allow_change:
        raise InputError(
            f"the same weights would compute something else: {', '.join(differ)}; "
            "leave the option as the weights have it"
        )
    changed = differ + _difference(stored, wanted, "structure")
    report += [f"note: {line}" for line in changed]
    report += [f"left out: {path}" for path in sorted(left_out)]
    report += [f"starts afresh: {path} {fresh[path]}" for path in sorted(fresh)]
    return Fitted(have, fresh, [_loaded(have), *report])


def _loaded(have: Mapping[str, Any]) -> str:
    """How much of the weights is used, in words."""
    numbers = sum(int(np.prod(np.shape(array))) for array in have.values())
    return f"loaded {numbers:,} parameters from the weights, in {len(have)} arrays"


def refit(weights: Weights, *, resample: str | None = None, **changes: Any) -> Weights:
    """The same weights in a model with other options; a head for other classes starts at zero.

    Args:
      weights: weights and their model.
      resample: method by which the position embedding is resized to another `image_size`;
        None: bilinear_align_corners, and the family's own if the size is that of the files.
      **changes: options of `create_model`; None leaves an option unchanged.

    Raises:
      InputError: as `fit`; another image size that does not divide into patches.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    stored = weights.config
    if weights.input_size and "image_size" not in changes:
        changes["image_size"] = weights.input_size
        resample = resample or weights.resample
    resample = resample or "bilinear_align_corners"
    wanted = models.model_config(weights.name, **{**weights.options, **changes})
    if stored == wanted:
        return weights
    if stored.image_size != wanted.image_size:
        try:
            wanted.check_patches()
        except InputError as error:
            if wanted.image_size != weights.input_size:
                raise
            raise InputError(
                f"{weights.source}: config.json or preprocessor_config.json (input_size, size, "
                f"crop_size): {error}"
            ) from error
    skip: tuple[str, ...] = ()
    dropped = [
        name
        for name in ("pre_logits", "projection")
        if getattr(stored, name, 0) and not getattr(wanted, name, 0)
    ]
    skip += tuple(f"{name}/.*" for name in dropped)
    if dropped or stored.num_classes != wanted.num_classes:
        skip += HEADS
    params = traverse_util.flatten_dict(weights.params, sep="/")
    fitted = fit(params, stored, wanted, resample=resample, skip=skip, allow_change=True)
    for path, shape in fitted.fresh.items():
        value = wanted.head_bias if path.endswith("bias") else 0.0
        fitted.params[path] = np.full(shape, value, np.float32)
    name, own_options = models.identify(wanted)
    pp = weights.pp
    if wanted.image_size != (weights.input_size or stored.image_size):
        pp = Recipe.parse(pp).spec(wanted.image_size)
    return dataclasses.replace(
        weights,
        name=name,
        options=own_options,
        params=traverse_util.unflatten_dict(fitted.params, sep="/"),
        pp=pp,
        input_size=None,
        labels=[] if fitted.fresh else weights.labels,
        report=[*weights.report, *fitted.report[1:]],
    )


def _difference(stored: ModelConfig, wanted: ModelConfig, *effects: str) -> list[str]:
    """A line for each option in which two models of one kind differ, with both values."""
    return [
        f"{name} is {getattr(stored, name)!r} in the weights, "
        f"{getattr(wanted, name)!r} in the model"
        for name in options.names_with(type(stored), *effects)
        if getattr(stored, name) != getattr(wanted, name)
        and not _only_initial(name, stored, wanted)
    ]


def _only_initial(name: str, stored: ModelConfig, wanted: ModelConfig) -> bool:
    """Whether an option only sets the initial value of a parameter that is stored."""
    both = getattr(stored, name) is not None and getattr(wanted, name) is not None
    return name == "layer_scale" and both


def other_normalization(pp: str, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """A warning if a run normalises images differently from how its weights were trained.

    Args:
      pp: preprocessing that the weights were trained with.
      mean, std: normalisation of the run.
    """
    from vit_jax.data import parse

    was = parse(pp)
    if np.allclose((was.mean, was.std), (mean, std), atol=1e-6):
        return []
    return [
        f"note: the weights know images prepared by {pp}; config.data.pp normalises with "
        f"mean {tuple(mean)}, std {tuple(std)}"
    ]


def check_finite(params: dict[str, Any], source: str, where: str = "init_from") -> None:
    """Refuses weights that hold NaNs or infinities.

    Args:
      params: path -> array.
      source: path of the weights, for messages.
      where: option that names them, for messages.

    Raises:
      InputError: a parameter has NaNs or infinities; the message names it.
    """

    def is_finite(array):  # where the array is
        return (jnp if isinstance(array, jax.Array) else np).isfinite(array).all()

    finite = jax.device_get({path: is_finite(array) for path, array in params.items()})
    if bad := [path for path, fine in finite.items() if not fine]:
        more = f" and {len(bad) - 1} more parameters" if len(bad) > 1 else ""
        raise InputError(
            f"{where}: {source} has values that are not finite in {bad[0]}{more}; "
            "take another checkpoint"
        )


def replace(params: Any, loaded: dict[str, Any]) -> Any:
    """`params` with its arrays replaced by those of `loaded`, sharded as in `params`."""

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


def _split(leaves: Mapping[str, Any], skip: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Path -> leaf, first of the paths that `skip` does not match, then of the others."""
    patterns = name_patterns(skip, "config.init_skip")
    kept: dict[str, Any] = {}
    skipped: dict[str, Any] = {}
    for path, leaf in leaves.items():
        matches = any(pattern.fullmatch(path) for pattern in patterns)
        (skipped if matches else kept)[path] = leaf
    return kept, skipped


def _shape(array: Any) -> tuple[int, ...] | str:
    return "have none" if array is None else tuple(array.shape)

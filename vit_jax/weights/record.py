"""Weights of one model fitted to a changed one: resolution, classes, representation layer."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ViTConfig
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.resample import resample_positions

Config = ViTConfig | BiTConfig


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file, read.

    Attributes:
      name: of the nearest model, such as "ViT-B/16".
      options: of `create_model`, which make it the file's.
      params: nested dict of float32 arrays.
      pp: preprocessing of images for evaluation.
      labels: class names by index; [] where unknown.
      family: whose names the file has.
      aside: tensors that no classifier has, kept for the way back: "mask_token".
      report: lines that account for every tensor.
    """

    name: str
    options: dict[str, Any]
    params: dict[str, Any]
    pp: str
    labels: list[str]
    family: str
    aside: dict[str, np.ndarray]
    report: list[str]

    @property
    def config(self) -> Config:
        """Of the model."""
        return models.model_config(self.name, **self.options)


def change(published: Published, *, resample: str, **options: Any) -> Published:
    """The same weights in a model with other options.

    Args:
      published: weights and their model.
      resample: how the position embedding meets another `image_size`.
      **options: of `create_model`; None: as it is.

    Raises:
      InputError: options that ask for parameters of other shapes.
    """
    options = {key: value for key, value in options.items() if value is not None}
    stored = published.config
    wanted = models.model_config(published.name, **{**published.options, **options})
    if stored == wanted:
        return published
    params, changes = adapt(
        traverse_util.flatten_dict(published.params, sep="/"), stored, wanted, resample
    )
    name, options = models.identify(wanted)
    pp = published.pp
    if stored.image_size != wanted.image_size:
        pp = Recipe.parse(pp).spec(wanted.image_size)
    return dataclasses.replace(
        published,
        name=name,
        options=options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp=pp,
        labels=[] if any("new: head" in line for line in changes) else published.labels,
        report=[*published.report, *changes],
    )


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter of a model."""
    _, params = models.abstract(functools.partial(models.build_model, config))
    return {
        path: tuple(leaf.shape)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }


def adapt(
    params: Mapping[str, np.ndarray], stored: Config, wanted: Config, resample: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters of one model fitted to another, and lines that tell what was done."""
    skip = []
    dropped = getattr(stored, "pre_logits", 0) and not wanted.pre_logits
    if dropped:
        skip += ["pre_logits/.*"]
    if dropped or stored.num_classes != wanted.num_classes:
        skip += ["head/.*", "head_dist/.*"]
    result = {
        path: array
        for path, array in params.items()
        if not any(re.fullmatch(pattern, path) for pattern in skip)
    }
    changes = []
    for path, array in resample_positions(result, stored, wanted, resample).items():
        changes.append(f"resized: {path} {result[path].shape} -> {array.shape}, {resample}")
        result[path] = array
    shapes = parameter_shapes(wanted)
    problems = [
        f"{path}: file {array.shape}, model {shapes.get(path, 'has none')}"
        for path, array in sorted(result.items())
        if shapes.get(path) != array.shape
    ]
    if problems:
        raise InputError("the options do not fit the file: " + "; ".join(problems))
    changes += [f"left out on request: {path}" for path in sorted(params.keys() - result.keys())]
    for path in sorted(shapes.keys() - result.keys()):
        if not path.startswith("head"):
            raise InputError(f"the options do not fit the file, which has no {path}")
        value = wanted.head_bias if path.endswith("bias") else 0.0
        result[path] = np.full(shapes[path], value, np.float32)
        changes.append(f"new: {path} {shapes[path]}, {value:g}")
    return result, changes

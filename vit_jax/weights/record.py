"""The record of weights that were read: model, parameters, preprocessing, labels."""

import dataclasses
import functools
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.text import some
from vit_jax.weights.adapters.lora import Adapter
from vit_jax.weights.layout import Layout, Table, layout_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of a run or of a published file.

    Attributes:
      name: name of the nearest model, such as "ViT-B/16".
      options: options of `create_model` in which the model differs from it.
      params: nested dict of arrays; {} if a model holds them.
      pp: preprocessing of images for evaluation.
      multi_label: whether the probability of a class is the sigmoid of its logit, as after
        training with the sigmoid loss, instead of the softmax over classes.
      input_size: (height, width) that `pp` gives, if `options` have another one as yet.
      resample: method by which the family resizes position embeddings.
      labels: class names by index; [] if unknown.
      source: path that they were read from.
      family: family of the file; "vit_jax" for a run's checkpoint.
      run_config: configuration of the run that made them; {} for a published file.
      aside: tensors that the model does not use, kept for writing, such as "mask_token".
      adapter: LoRA adapter of a run, whose updates `params` contain; None: the run had none.
      report: lines that account for every tensor.
    """

    name: str
    options: dict[str, Any]
    params: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    pp: str
    multi_label: bool = False
    input_size: tuple[int, int] | None = None
    resample: str = "bilinear_align_corners"
    labels: list[str] = dataclasses.field(default_factory=list)
    source: str = ""
    family: str = "vit_jax"
    run_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    aside: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    adapter: Adapter | None = dataclasses.field(default=None, repr=False)
    report: list[str] = dataclasses.field(default_factory=list)

    @property
    def config(self) -> ViTConfig | BiTConfig:
        """Configuration of the model."""
        return models.model_config(self.name, **self.options)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter of a model."""
    return dict(_parameter_shapes(config))


@functools.lru_cache(maxsize=64)
def _parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    _, params = models.abstract(functools.partial(models.build_model, config))
    return {
        path: tuple(leaf.shape)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }


def layouts(config: ModelConfig, table: Table, family: str) -> dict[str, Layout]:
    """Path -> layout of every parameter of a model in a format.

    Raises:
      InputError: the format has no place for some of them.
    """
    found = {
        path: layout_of(path, shape, table) for path, shape in parameter_shapes(config).items()
    }
    homeless = sorted(path for path, layout in found.items() if layout is None)
    if homeless:
        raise InputError(f"the names of {family} have no place for {some(homeless)}")
    return {path: layout for path, layout in found.items() if layout is not None}

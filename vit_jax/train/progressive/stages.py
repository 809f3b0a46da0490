"""The parts of a run that have images of one size each.

The parameters are those of the final size for the whole run: state, optimizer and checkpoints know
of no sizes. For smaller images the step interpolates position embeddings to the smaller grid
before the forward pass, as FlexiViT does (2212.08013, section 3.1); their gradients flow back
through the interpolation. Learnt relative positions are interpolated in the same way. Rotary and
sine-cosine embeddings are computed for the grid.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.engines import CompiledStep
from vit_jax.tasks import Task
from vit_jax.train.progressive.options import Size, first_steps, parse_sizes, shown
from vit_jax.trees import named_leaves
from vit_jax.weights.resample import position_matrices


@dataclasses.dataclass(frozen=True)
class Stage:
    """Part of a run with images of one size.

    Attributes:
      first: number of its first step, from 0.
      size: (height, width) of its images; None: as the preprocessing says.
      task: task with the model of that size.
      train_step: step of a run on images of that size.
    """

    first: int
    size: Size | None
    task: Task
    train_step: CompiledStep

    @property
    def model_config(self) -> ModelConfig:
        """The model's configuration for that size."""
        return self.task.setting.model_config


def create_stages(
    config: ConfigDict,
    task: Task,
    train_step: CompiledStep,
    total_steps: int,
    compiled: Callable[[Task], CompiledStep],
) -> tuple[Stage, ...]:
    """The stages of a run, in their order; one for a run with one size.

    Args:
      config: config of the run.
      task: its task, bound to the model of the final size.
      train_step: its step for that size.
      total_steps: length of the run.
      compiled: makes the step of a task.

    Raises:
      InputError: a size that the model or the task cannot take.
    """
    final = task.setting.model_config
    sizes = parse_sizes(config.progressive)
    if not sizes:
        size = None if final.naflex else tuple(final.image_size)
        return (Stage(0, size, task, train_step),)
    where = "config.progressive.sizes"
    if final.naflex:
        raise InputError(f"{where} needs images of one size at a time: no model.naflex")
    if config.data.resident:
        raise InputError(f"{where} reads images for each size: set config.data.resident to False")
    if sizes[-1][0] != tuple(final.image_size):
        raise InputError(
            f"{where} ends with {shown(sizes[-1][0])}, but config.data.pp yields images of "
            f"{shown(final.image_size)}; make them equal"
        )
    stages = []
    for size, first in first_steps(sizes, total_steps):
        own, own_step = task, train_step
        if size != tuple(final.image_size):
            try:
                own = at_size(task, size, config.progressive.resample)
            except InputError as error:
                raise InputError(f"{where}, {shown(size)}: {error}") from None
            own_step = compiled(own)
        stages.append(Stage(first, size, own, own_step))
    return tuple(stages)


def at_size(task: Task, size: Size, method: str) -> Task:
    """A task on images of another size, with the same trained parameters.

    Args:
      task: task bound to a model.
      size: (height, width) in pixels.
      method: interpolation of position embeddings, one of weights.resample.METHODS.

    Raises:
      InputError: images do not divide into patches, or parameters depend on their size.
    """
    old = task.setting.model_config
    new = dataclasses.replace(old, image_size=size)
    new.check_patches()
    create = functools.partial(task.build_model, new)
    graphdef, params = models.abstract(create)
    trained = models.abstract(functools.partial(task.build_model, old))[1]
    shapes = {path: tuple(leaf.shape) for path, leaf in named_leaves(trained).items()}
    wanted = {path: tuple(leaf.shape) for path, leaf in named_leaves(params).items()}
    matrices = {}
    if isinstance(old, ViTConfig):
        matrices = position_matrices(shapes, old, new, method)
    for path, shape in wanted.items():
        found = list(shapes.get(path, ()))
        if path in matrices:
            axis, matrix = matrices[path]
            found[axis] = len(matrix)
        if tuple(found) != shape:
            raise InputError(f"the parameter {path} depends on the size of images")
    setting = dataclasses.replace(
        task.setting,
        model_config=new,
        graphdef=graphdef,
        fit=functools.partial(_fit, matrices) if matrices else None,
    )
    return dataclasses.replace(task, setting=setting)


def _fit(matrices: dict[str, tuple[int, np.ndarray]], params: Any) -> Any:
    """Parameters with position embeddings for another grid."""
    flat = traverse_util.flatten_dict(params, sep="/")
    for path, (axis, matrix) in matrices.items():
        leaf = flat[path]
        product = jnp.tensordot(
            jnp.asarray(matrix), leaf, (1, axis), precision=lax.Precision.HIGHEST
        )
        flat[path] = jnp.moveaxis(product, 0, axis).astype(leaf.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def stage_at(stages: tuple[Stage, ...], step: int) -> Stage:
    """The stage to which a step belongs."""
    return next(stage for stage in reversed(stages) if stage.first <= step)

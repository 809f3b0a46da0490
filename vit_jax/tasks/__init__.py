"""Tasks: what a training step computes."""

import dataclasses
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from vit_jax import spec
from vit_jax.errors import InputError
from vit_jax.options import defaults
from vit_jax.tasks import distill
from vit_jax.tasks.task import TASKS, Batch, Metrics, Setting, Task, gather, positions

__all__ = [
    "TASKS",
    "Batch",
    "Metrics",
    "Setting",
    "Task",
    "bind",
    "create_task",
    "gather",
    "positions",
]


def create_task(config: ConfigDict) -> Task:
    """The task that `config.task` names, not yet bound to a model.

    Raises:
      InputError: an unknown task, or options of the run that do not suit it.
    """
    task: Task = spec.create(TASKS, config.task, "config.task")
    if not isinstance(task, distill.Distillation):
        _check_undistilled(config)
    task.check(config)
    return task


def _check_undistilled(config: ConfigDict) -> None:
    """Refuses options of distillation, which another task would ignore."""
    for name, usual in defaults(distill.DistillOptions).items():
        if config.distill[name] != usual:
            raise InputError(
                f"config.distill.{name} is set, but config.task is {config.task!r}; set it to "
                "'distill'"
            )


def bind(
    task: Task,
    config: ConfigDict,
    model_config: Any,
    graphdef: nnx.GraphDef,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    mix_steps: int | None = None,
    class_weights: tuple[float, ...] | None = None,
) -> Task:
    """The task with the setting of a run; see `Setting`."""
    setting = Setting(config, model_config, graphdef, mean, std, mix_steps, class_weights)
    return dataclasses.replace(task, setting=setting)

"""The evaluation step of a task."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from vit_jax.tasks.task import Batch, Metrics, Task
from vit_jax.tasks.tta import Views


def make_eval_step(
    task: Task, axis_name: str | None = None, *, views: Views | None = None
) -> Callable[[Any, Batch], Metrics]:
    """Makes (params, batch) -> sums over those examples of the global batch with `mask` set.

    There is a sum for each of the task's metrics, and `examples`, the number of examples. With
    `views`, the model's predictions are averaged over them.
    """

    def step(params: Any, batch: Batch) -> Metrics:
        model = task.model(params)
        rows = task.rows(views.averaged(model) if views else model, batch, axis_name)
        rows["examples"] = jnp.ones(len(batch["mask"]))
        sums = {name: jnp.where(batch["mask"], row, 0).sum() for name, row in rows.items()}
        return lax.psum(sums, axis_name) if axis_name else sums

    return step

"""The metrics of a step that the log names."""

from typing import Any

import jax

from vit_jax.train.progressive.stages import stage_at
from vit_jax.train.run import Run


def training_values(run: Run, step: int, metrics: dict[str, jax.Array]) -> dict[str, Any]:
    """The metrics of a training step, as they are named in metrics.jsonl.

    Args:
      run: the run.
      step: number of the step, counted from 1.
      metrics: what the step returned; values may still be under way.
    """
    values: dict[str, Any] = {
        f"train/{name}": value
        for name, value in metrics.items()
        if name != "histograms" and not value.ndim
    }
    if len(run.stages) > 1:
        stage = stage_at(run.stages, step - 1)
        values["train/image_size"] = max(stage.model_config.image_size)
        values["train/flops_per_image"] = run.step_flops(stage)
    return values

"""The options that a task reads, for models that are evaluated without a run."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.data.options import DataOptions
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import fill, section
from vit_jax.tasks.distill import DistillOptions
from vit_jax.tasks.losses import LossOptions
from vit_jax.tasks.mixup import MixupOptions


def task_options(run: Mapping[str, Any], model: ModelConfig) -> ConfigDict:
    """The task's options of a finished run, or the defaults of the task that suits the model.

    Args:
      run: whole config of the run; {} if the weights come from no run.
      model: configuration of the model.

    Raises:
      InputError: a value has another type.
    """
    config = ConfigDict(dict(task=run.get("task", _usual_task(model)), seed=run.get("seed", 0)))
    kinds = dict(loss=LossOptions, mixup=MixupOptions, distill=DistillOptions, data=DataOptions)
    for name, kind in kinds.items():
        config[name] = section(kind)
        fill(config[name], kind, run.get(name, {}), f"in the config of the run, {name}")
    return config.lock()


def _usual_task(model: ModelConfig) -> str:
    """Classification; of a model of pixels without classes, the pixels' colours."""
    if not isinstance(model, ViTConfig) or not model.color_head or model.num_classes:
        return "classify"
    return "pixels" if model.autoregressive else "masked_pixels"

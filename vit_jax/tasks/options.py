"""The options that a task reads, for models that are evaluated without a run."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.data.options import DataOptions
from vit_jax.options import fill, section
from vit_jax.tasks.distill import DistillOptions
from vit_jax.tasks.losses import LossOptions
from vit_jax.tasks.mixup import MixupOptions


def task_options(run: Mapping[str, Any]) -> ConfigDict:
    """The task's options of a finished run, or the defaults of a classifier.

    Args:
      run: whole config of the run; {} if the weights come from no run.

    Raises:
      InputError: a value has another type.
    """
    config = ConfigDict(dict(task=run.get("task", "classify"), seed=run.get("seed", 0)))
    kinds = dict(loss=LossOptions, mixup=MixupOptions, distill=DistillOptions, data=DataOptions)
    for name, kind in kinds.items():
        config[name] = section(kind)
        fill(config[name], kind, run.get(name, {}), f"in the config of the run, {name}")
    return config.lock()

"""The options that a task reads, for models that are evaluated without a run."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.data.options import DataOptions
from vit_jax.options import section
from vit_jax.tasks.losses import LossOptions
from vit_jax.tasks.mixup import MixupOptions


def task_options(run: Mapping[str, Any]) -> ConfigDict:
    """The task's options of a finished run, or the defaults of a classifier.

    Args:
      run: whole config of the run; {} if the weights come from no run.
    """
    config = ConfigDict(dict(task=run.get("task", "classify"), seed=run.get("seed", 0)))
    config.loss, config.mixup, config.data = map(section, (LossOptions, MixupOptions, DataOptions))
    for name in ("loss", "mixup", "data"):
        stored = run.get(name, {})
        config[name].update({key: value for key, value in stored.items() if key in config[name]})
    return config.lock()

"""Training: a run, its state, its steps and the loop; `vit_jax.train(config, workdir)` runs it."""

import os
import sys
import types
from typing import Any

from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.schema import path_given
from vit_jax.text import shown


class _Train(types.ModuleType):
    """This package as a module that can be called."""

    def __call__(self, config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, Any]:
        """Trains as `config` says; continues from the workdir's newest checkpoint if it has one.

        Several runs may follow each other in one process, also in other threads than the main one.
        In the main thread Ctrl-C saves the state and raises KeyboardInterrupt; a second one raises
        it at once. SIGTERM saves the state and raises Preempted.

        Args:
          config: config of the run, from `load_config` or `vit_jax.config.default()`.
          workdir: folder for checkpoints, metrics and the summary.

        Returns:
          The summary, as written to summary.json. A run that is done already returns it as it is.

        Raises:
          InputError: wrong config or data; nothing was overwritten.
          KeyboardInterrupt, Preempted: stopped early, state saved.
          NotSavedError: stopped early, state not saved.
          NonFiniteError: too many consecutive steps were not finite.

        Example:
            >>> config = vit_jax.load_config(
            ...     "configs/quickstart.py:pretrain",
            ...     ["--config.total.steps=3", "--config.optimizer.warmup.steps=1"],
            ... )
            >>> config.model.update(width=32, depth=2, mlp_dim=64)
            >>> config.data.pp = "resize(16)|value_range(-1, 1)"
            >>> config.log.tensorboard = False
            >>> summary = vit_jax.train(config, "workdirs/digits")
            >>> summary["steps"]
            3
        """
        from vit_jax.train.loop import train

        if not isinstance(config, ConfigDict):
            raise InputError(
                f"config is {shown(config)}; give a config, from vit_jax.load_config or "
                "vit_jax.config.default()"
            )
        return train(config, path_given(workdir, "workdir"))


sys.modules[__name__].__class__ = _Train

"""Training: a run, its state, its steps and the loop; `vit_jax.train(config, workdir)` runs it."""

import sys
import types
from typing import Any

from ml_collections import ConfigDict


class _Train(types.ModuleType):
    """This package as a module that can be called."""

    def __call__(self, config: ConfigDict, workdir: str) -> dict[str, Any]:
        """Trains as `config` says; see `vit_jax.train.loop.train`."""
        from vit_jax.train.loop import train

        return train(config, workdir)


sys.modules[__name__].__class__ = _Train

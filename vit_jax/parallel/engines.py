"""What the training loop needs from an engine; pjit.py and pmap.py are the two there are."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax.errors import unknown

# A step is a pure function; `axis_name` is None where arrays are global (pjit)
# and names the device axis where they are local (pmap).
StepFn = Callable[..., Any]

ENGINES = ("pjit", "pmap")


class Engine(Protocol):
    """Places state and batches on devices and compiles steps."""

    batch_shards: int  # into how many parts a batch is cut
    data_slot: tuple[int, int]  # (index, count): which part of each batch this process reads

    def init(self, create: Callable[[], Any]) -> Any:
        """Runs `create` so that its result is born in the layout of `shardings`."""

    def abstract(self, create: Callable[[], Any]) -> Any:
        """The result of `create` as ShapeDtypeStructs with shardings."""

    def compile_train(self, make_step: Callable[[str | None], StepFn]) -> StepFn:
        """(state, batch) -> (state, metrics), with the state donated."""

    def compile_eval(self, make_step: Callable[[str | None], StepFn]) -> StepFn:
        """(params, batch) -> sums over the global batch."""

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's part of a global batch, onto the devices."""


def create_engine(parallel: ConfigDict) -> Engine:
    """The engine that `config.parallel` names.

    Raises:
      InputError: an unknown engine, or a mesh that does not fit the devices.
    """
    from vit_jax.parallel.pjit import PjitEngine
    from vit_jax.parallel.pmap import PmapEngine

    engines = dict(pjit=PjitEngine, pmap=PmapEngine)
    if parallel.engine not in engines:
        raise unknown("config.parallel.engine", parallel.engine, engines)
    return engines[parallel.engine](parallel)

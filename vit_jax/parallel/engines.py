"""What the training loop needs from an engine; pjit.py and pmap.py are the two there are."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vit_jax.errors import unknown

# Steps are pure functions. Their makers take `axis_name`: None where arrays are global
# (pjit), the name of the device axis where they are one device's part (pmap).
MakeStep = Callable[..., Callable]


class CompiledStep(Protocol):
    """A step that its first call compiles, or `lower` ahead of it, from shapes alone."""

    def __call__(self, *args: Any) -> Any: ...

    def lower(self, *args: Any) -> jax.stages.Lowered: ...


class Engine(Protocol):
    """Places state and batches on devices and compiles steps."""

    mesh: Mesh
    batch_shards: int  # into how many parts a batch is cut
    replicated: NamedSharding  # a full copy on every device

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a global batch this process feeds to its devices, ascending."""

    def abstract(self, create: Callable[[], Any]) -> Any:
        """The result of `create` as ShapeDtypeStructs with shardings."""

    def parameter_sharding(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """The layout of one parameter, whether this run's model has it or not."""

    def init(self, create: Callable[[], Any]) -> Any:
        """Runs `create` so that its result is born in the layout of `abstract`."""

    def compile_train(self, make_step: MakeStep, abstract: Any) -> CompiledStep:
        """(state, batch) -> (state, metrics), with the state donated; has `lower` as jax.jit."""

    def compile_eval(self, make_step: MakeStep) -> CompiledStep:
        """(params, batch) -> sums over the global batch."""

    def put_batch(self, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """This process's `rows` of a global batch, onto the devices."""

    def describe(self, params: Any) -> list[str]:
        """Lines that say how parameters are laid out and what they take on each device."""

    def abstract_batch(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """What `put_batch` gives for a global batch of these shapes."""

    def globalize(self, state: Any) -> Any:
        """What a step returned as arrays of all processes, ready to be saved."""


def create_engine(parallel: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Engine:
    """The engine that `config.parallel` names.

    Args:
      parallel: `config.parallel`.
      devices: of all processes; None: those present.

    Raises:
      InputError: an unknown engine, or a mesh that does not fit the devices.
    """
    from vit_jax.parallel.pjit import PjitEngine
    from vit_jax.parallel.pmap import PmapEngine

    engines: dict[str, Callable[..., Engine]] = dict(pjit=PjitEngine, pmap=PmapEngine)
    if parallel.engine not in engines:
        raise unknown("config.parallel.engine", parallel.engine, engines)
    return engines[parallel.engine](parallel, devices)

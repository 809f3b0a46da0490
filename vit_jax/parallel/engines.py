"""The interface of engines to the training loop; pjit.py and pmap.py implement it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vit_jax.errors import unknown

# Steps are pure functions. Functions that make them take `axis_name`: None if arrays are global
# (pjit), the name of the device axis if they are one device's part (pmap).
MakeStep = Callable[..., Callable]


class CompiledStep(Protocol):
    """A step, compiled at its first call, or ahead by `lower(...).compile()` from shapes alone."""

    def __call__(self, *args: Any) -> Any: ...

    def lower(self, *args: Any) -> jax.stages.Lowered: ...


class WithFrozen:
    """A step (state, batch, frozen) as one of (state, batch), with arrays that are not trained."""

    def __init__(self, step: CompiledStep, frozen: Any):
        """`frozen`: a pytree of arrays, or of their shapes and shardings, for `lower`."""
        self.inner, self._frozen = step, frozen

    def __call__(self, *args: Any) -> Any:
        return self.inner(*args, self._frozen)

    def lower(self, *args: Any) -> jax.stages.Lowered:
        return self.inner.lower(*args, self._frozen)

    def compiled(self, *args: Any) -> Callable[..., Any]:
        """The same step, compiled for arguments of these shapes."""
        program = self.lower(*args).compile()
        return lambda *own: program(*own, self._frozen)

    def around(self, change: Callable[[CompiledStep], CompiledStep]) -> "WithFrozen":
        """The same arrays with another step of (state, batch, frozen)."""
        return WithFrozen(change(self.inner), self._frozen)

    def given(self, frozen: Any) -> "WithFrozen":
        """The same step with other arrays."""
        return WithFrozen(self.inner, frozen)


class Engine(Protocol):
    """Places state and batches on devices and compiles steps."""

    mesh: Mesh
    batch_shards: int  # number of parts into which a batch is cut
    replicated: NamedSharding  # a full copy on every device

    def rows(self, batch_size: int) -> np.ndarray:
        """Numbers of the rows of a global batch that this process provides, ascending."""

    def abstract(self, create: Callable[[], Any]) -> Any:
        """The result of `create` as ShapeDtypeStructs with shardings."""

    def parameter_sharding(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """The layout of one parameter, whether this run's model has it or not."""

    def init(self, create: Callable[[], Any]) -> Any:
        """Runs `create`; its result is created directly in the layout of `abstract`."""

    def compile_train(
        self, make_step: MakeStep, abstract: Any, *, frozen: bool = False
    ) -> CompiledStep:
        """Compiles (state, batch) -> (state, metrics), with the state donated.

        With `frozen`, the step takes arrays that are not trained as a third argument.
        """

    def compile_eval(self, make_step: MakeStep) -> CompiledStep:
        """Compiles (params, batch) -> sums over the global batch."""

    def put_batch(self, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """Puts this process's `rows` of a global batch on the devices."""

    def describe(self, params: Any) -> list[str]:
        """Describes in lines the layout of parameters and their size on each device."""

    def abstract_batch(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Shapes of the result of `put_batch`, for a global batch of these shapes."""

    def globalize(self, state: Any) -> Any:
        """The state returned by a step as arrays of all processes, ready to be saved."""


def create_engine(parallel: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Engine:
    """The engine that `config.parallel` names.

    Args:
      parallel: `config.parallel`.
      devices: devices of all processes; None: those present.

    Raises:
      InputError: an unknown engine, or a mesh that does not fit the devices.
    """
    from vit_jax.parallel.pjit import PjitEngine
    from vit_jax.parallel.pmap import PmapEngine

    engines: dict[str, Callable[..., Engine]] = dict(pjit=PjitEngine, pmap=PmapEngine)
    if parallel.engine not in engines:
        raise unknown("config.parallel.engine", parallel.engine, engines)
    return engines[parallel.engine](parallel, devices)

"""The compiled steps of a run's stages: the next one is compiled before it is due."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from vit_jax.parallel.engines import WithFrozen
from vit_jax.train.progressive.stages import Stage, stage_at


class StagedSteps:
    """Runs each step with the program of its stage.

    The first program is compiled at its first call, each further one by a thread as soon as the
    stage before it has begun. Each is compiled once.
    """

    def __init__(self, stages: Sequence[Stage], abstract: Any):
        """`abstract`: shapes and shardings of the train state."""
        self.stages, self._abstract = tuple(stages), abstract
        self._programs: dict[int, Callable[..., Any]] = {}  # by the first step of the stage
        self._coming: dict[int, Future] = {}
        self._pool = ThreadPoolExecutor(1, "vit_jax-compile") if len(stages) > 1 else None

    def ready(self, number: int) -> bool:
        """Whether a step begins without compiling, or waiting for a program."""
        first = stage_at(self.stages, number).first
        return first in self._programs or (first in self._coming and self._coming[first].done())

    def __call__(self, number: int, state: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        """The state after step `number`, counted from 0, and its metrics."""
        stage = stage_at(self.stages, number)
        if stage.first in self._programs:
            return self._programs[stage.first](state, batch)
        coming = self._coming.pop(stage.first, None)
        step = coming.result() if coming else stage.train_step
        result = step(state, batch)
        self._programs[stage.first] = step
        later = [other for other in self.stages if other.first > stage.first]
        if self._pool and later:
            shapes = {name: _at_size(name, leaf, later[0]) for name, leaf in batch.items()}
            self._coming[later[0].first] = self._pool.submit(self._compile, later[0], shapes)
        return result

    def _compile(self, stage: Stage, batch: dict[str, jax.ShapeDtypeStruct]) -> Callable[..., Any]:
        if isinstance(stage.train_step, WithFrozen):
            return stage.train_step.compiled(self._abstract, batch)
        return stage.train_step.lower(self._abstract, batch).compile()

    def close(self) -> None:
        """Waits for a program that is being compiled."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _at_size(name: str, leaf: jax.Array, stage: Stage) -> jax.ShapeDtypeStruct:
    """The shape of a batch's field in another stage."""
    shape = leaf.shape
    if name == "image":
        assert stage.size is not None
        shape = (*shape[:-3], *stage.size, shape[-1])
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

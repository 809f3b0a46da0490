"""The examples that a process reads at each step, and their random words."""

import dataclasses
import functools
from typing import Protocol

import numpy as np

from vit_jax.data import order
from vit_jax.data.sources.source import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """One process's part of one batch.

    Attributes:
      epoch, index: int64 (m,); m is smaller than a full batch only at the end of an evaluation.
      words: random words, uint32 (m, num_random, 2).
    """

    epoch: np.ndarray
    index: np.ndarray
    words: np.ndarray


class Plan(Protocol):
    """A pure function from the step to the examples of its batch."""

    @property
    def rows(self) -> np.ndarray:
        """Rows of the global batch that this process reads."""
        ...

    def __call__(self, step: int) -> Planned: ...


_BLOCK = (
    4096  # examples planned at a time; array operations on one small batch cost too much overhead
)


class TrainingPlan:
    """The endless training stream; this process reads `rows` of each global batch."""

    def __init__(
        self,
        source: Source,
        batch_size: int,
        rows: np.ndarray,
        num_random: int,
        seed: int,
        shuffle: bool,
    ):
        self.source, self.num_random = source, num_random
        self.seed, self.shuffle = seed, shuffle
        self.batch_size, self.rows = batch_size, rows
        self._steps = max(1, _BLOCK // len(rows))
        self._block = functools.lru_cache(maxsize=4)(self._plan_block)

    def __call__(self, step: int) -> Planned:
        block, offset = divmod(step, self._steps)
        rows = slice(offset * len(self.rows), (offset + 1) * len(self.rows))
        planned = self._block(block)
        return Planned(planned.epoch[rows], planned.index[rows], planned.words[rows])

    def _plan_block(self, block: int) -> Planned:
        """The plan of several steps at once."""
        steps = np.arange(block * self._steps, (block + 1) * self._steps)
        positions = (steps[:, None] * self.batch_size + self.rows).ravel()
        return self.at(*self.source.order(positions, seed=self.seed, shuffle=self.shuffle))

    def at(self, epoch: np.ndarray, index: np.ndarray) -> Planned:
        """These examples with their random words."""
        words = order.words(epoch, index, seed=self.seed, count=self.num_random)
        return Planned(epoch, index, words)


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """Every example of a list once, in its order; batches past the end are empty."""

    examples: np.ndarray  # int64 (n,), numbers of the examples
    batch_size: int
    rows: np.ndarray

    def __call__(self, step: int) -> Planned:
        place = step * self.batch_size + self.rows
        index = self.examples[place[place < len(self.examples)]]
        return Planned(np.zeros_like(index), index, np.zeros((len(index), 0, 2), np.uint32))

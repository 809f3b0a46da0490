"""Training batches whose preprocessing changes at given steps."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from vit_jax.data.pipeline import Batches

# A stage begins to read this many batches before its first one is due: a pipeline takes some
# seconds to start, and what it reads ahead is bounded.
AHEAD = 64
# Makes the batches from one step (included) to another (excluded); None: endless.
Open = Callable[[int, int | None], Batches]


class StagedBatches(Iterator[dict[str, np.ndarray]]):
    """The batches of one stage after the other, without a pause between them.

    Order and augmentation are those of each stage's own batches, pure functions of the step.
    """

    def __init__(self, stages: Sequence[tuple[int, Open]], start_step: int, ahead: int = AHEAD):
        """Opens the stage of the first batch.

        Args:
          stages: number of the first batch of each stage, ascending from 0, and what opens it.
          start_step: number of the first batch.
          ahead: number of batches before a stage is due at which it is opened.
        """
        self._step, self._ahead = start_step, ahead
        self._skipped = 0  # in stages that have ended
        ends = [first for first, _ in stages[1:]]
        self._left = [
            (max(first, start_step), end, opens)
            for (first, opens), end in zip(stages, [*ends, None])
            if end is None or end > start_step
        ]
        self._pool = ThreadPoolExecutor(1, "vit_jax-stage")
        self._coming: tuple[Batches, Future] | None = None
        self._now = self._open_next()

    def _open_next(self) -> Batches:
        first, end, opens = self._left.pop(0)
        return opens(first, end)

    def __next__(self) -> dict[str, np.ndarray]:
        if self._left and self._coming is None and self._step >= self._left[0][0] - self._ahead:
            self._due = self._left[0][0]
            batches = self._open_next()
            self._coming = batches, self._pool.submit(next, batches)
        if self._coming and self._step == self._due:
            batches, first = self._coming
            batch = first.result()
            self._skipped += self._now.skipped
            self._now.close()
            self._now, self._coming = batches, None
        else:
            batch = next(self._now)
        self._step += 1
        return batch

    @property
    def skipped(self) -> int:
        """Number of unreadable examples replaced up to the last batch."""
        return self._skipped + self._now.skipped

    def close(self) -> None:
        """Stops reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for batches in (self._now, *(self._coming or ())[:1]):
            batches.close()

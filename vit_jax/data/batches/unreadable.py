"""Examples that cannot be read: replaced in training, left out or refused in evaluation."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np

from vit_jax.data import order
from vit_jax.data.batches.examples import TrainingPlan
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError

log = logging.getLogger(__name__)

# Always allowed, unless max_unreadable is 0: ten examples, in small data sets a tenth, at least one
_FEW = 10
_ATTEMPTS = 100

Example = dict[str, Any]
Read = Callable[[int, np.ndarray], Example]  # (index, words) -> the example, or InputError


class Unreadable(Protocol):
    """Called for each unreadable example; returns its replacement.

    Attributes:
      seen: number of examples so far, counted by the pipeline.
    """

    seen: int

    def __call__(self, epoch: int, index: int, words: np.ndarray, read: Read) -> Example: ...


LEFT_OUT = -1  # index of an example that an evaluation does without


class Refusal:
    """Raises the InputError that names the example."""

    def __init__(self):
        self.seen = 0

    def __call__(self, epoch: int, index: int, words: np.ndarray, read: Read) -> Example:
        return read(index, words)


def too_many(source: Source, skipped: int, seen: int, max_unreadable: float) -> bool:
    """Whether training ends by so many unreadable examples, `skipped` of `seen` reads."""
    # One broken image is met in every epoch: it takes more than a few to end a run.
    return skipped > max(_few(source, max_unreadable), max_unreadable * seen)


def _few(source: Source, max_unreadable: float) -> int:
    return min(_FEW, max(1, source.size // 10)) if max_unreadable else 0


class _Counted:
    """Names and counts unreadable examples; too many of them are an InputError.

    Attributes:
      skipped: number of unreadable examples so far; each occurrence counts.
      seen: number of examples so far, counted by the pipeline.
    """

    instead: ClassVar[str]  # what happens instead, for the log

    def __init__(self, source: Source, max_unreadable: float):
        self.source, self.max_unreadable = source, max_unreadable
        self.skipped = self.seen = 0
        self._named: set[int] = set()

    def note(self, index: int, reason: str) -> None:
        """Counts an unreadable example, and names it the first time.

        Raises:
          InputError: there are too many.
        """
        self.skipped += 1
        is_new = index not in self._named
        self._named.add(index)
        few = _few(self.source, self.max_unreadable)
        often = too_many(self.source, self.skipped, self.seen, self.max_unreadable)
        if often and len(self._named) > few:
            raise InputError(
                f"{self.source.name} has unreadable examples: {len(self._named)} "
                f"({self.skipped} of {self.seen} reads), more than data.max_unreadable = "
                f"{self.max_unreadable:g}; `vit_jax data --check` names all; the last: {reason}"
            )
        if is_new:
            log.warning("%s; %s", reason, self.instead)


class LeftOut(_Counted):
    """Leaves unreadable examples out of an evaluation, up to a share; see `_Counted`.

    The same object serves every evaluation of a run, so that it names an example once.
    """

    instead = "the evaluation does without it"

    def __call__(self, epoch: int, index: int, words: np.ndarray, read: Read) -> Example:
        """The example, or only an index, `LEFT_OUT`."""
        try:
            return read(index, words)
        except InputError as error:
            self.note(index, str(error))
            return dict(index=LEFT_OUT)


class Replacements(_Counted):
    """Replaces unreadable examples by others, up to a share; see `_Counted`."""

    instead = "another example takes its place"

    def __init__(
        self, source: Source, preprocess: Preprocess, plan: TrainingPlan, max_unreadable: float
    ):
        super().__init__(source, max_unreadable)
        self.plan = plan

    def __call__(self, epoch: int, index: int, words: np.ndarray, read: Read) -> Example:
        """The example that replaces `index`; the same in every process and run."""
        for attempt in range(_ATTEMPTS):
            try:
                return read(index, words)
            except InputError as error:
                self.note(index, str(error))
            index = self._another(epoch, index, attempt)
            self.seen += 1
            words = self.plan.at(np.array([epoch]), np.array([index])).words[0]
        raise InputError(f"{self.source.name}: {_ATTEMPTS} unreadable examples in a row")

    def _another(self, epoch: int, index: int, attempt: int) -> int:
        return order.replacement(epoch, index, attempt, seed=self.plan.seed, size=self.source.size)

"""When a run saves its state: every so many steps, or by the clock."""

import math
import time

from ml_collections import ConfigDict

from vit_jax.parallel.agree import from_first

MAX_COST = 0.01  # share of the time that saving may take, by the clock
FIRST_LOOK = 16  # steps after which the pace is known


class SaveInterval:
    """Decides after which steps to save; all processes decide alike.

    By the clock, process 0 looks at the time now and then and tells the others; it looks at
    half the steps that are left at the current pace, so that a look costs next to nothing.
    """

    def __init__(self, config: ConfigDict, every: int | None, step: int):
        """Starts the clock.

        Args:
          config: `config.checkpoint`.
          every: `config.checkpoint.every` in steps.
          step: that the run starts from.
        """
        self._every, self._keep_every = every, config.keep_every
        self._seconds = 60 * config.minutes
        self._look = 0  # the step at which the clock is asked next
        self._begin(step, cost=0.0)

    def due(self, step: int) -> bool:
        """Whether to save after `step`; asked for every step in turn."""
        if self._keep_every and step % self._keep_every == 0:
            return True
        if self._every is not None:
            return self._every > 0 and step % self._every == 0
        if not self._seconds or step < self._look:
            return False
        wait = from_first(lambda: self._steps_left(step))
        self._look = step + math.ceil(wait / 2)
        return wait == 0

    def saved(self, step: int, cost: float) -> None:
        """Takes the seconds for which the run stood still to save."""
        self._begin(step, cost)

    def _begin(self, step: int, cost: float) -> None:
        self._start, self._since, self._look = step, time.monotonic(), step + FIRST_LOOK
        self._interval = max(self._seconds, cost / MAX_COST)

    def _steps_left(self, step: int) -> int:
        passed = time.monotonic() - self._since
        pace = passed / (step - self._start)
        return max(0, math.ceil((self._interval - passed) / pace))

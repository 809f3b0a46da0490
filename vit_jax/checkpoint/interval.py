"""When a run saves its state: every N steps, or by the clock."""

import math
import time

from ml_collections import ConfigDict

from vit_jax.parallel.agree import from_first

MAX_COST = 0.01  # maximum share of the time for saving, by the clock
FIRST_LOOK = 16  # steps until the first check of the clock


class SaveInterval:
    """Decides after which steps to save; the decision is the same on all processes.

    By the clock, process 0 checks the time and broadcasts it. The next check is after half of
    the steps that remain at the current speed, so that checks are rare.
    """

    def __init__(self, config: ConfigDict, every: int | None, step: int):
        """Starts the clock.

        Args:
          config: section `config.checkpoint`.
          every: interval `config.checkpoint.every` in steps.
          step: step from which the run starts.
        """
        self._every, self._keep_every = every, config.keep_every
        self._seconds = 60 * config.minutes
        self._look = 0  # the step at which the clock is asked next
        self._begin(step, cost=0.0)

    def due(self, step: int) -> bool:
        """Whether to save after `step`; must be called for every step in order."""
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
        """Notes a save that stopped training for `cost` seconds; restarts the clock."""
        self._begin(step, cost)

    def _begin(self, step: int, cost: float) -> None:
        self._start, self._since, self._look = step, time.monotonic(), step + FIRST_LOOK
        self._interval = max(self._seconds, cost / MAX_COST)

    def _steps_left(self, step: int) -> int:
        passed = time.monotonic() - self._since
        pace = passed / (step - self._start)
        return max(0, math.ceil((self._interval - passed) / pace))

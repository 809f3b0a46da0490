"""Notices when the loss jumps."""

import collections
import logging
import math
import statistics
from typing import Any

log = logging.getLogger(__name__)

WINDOW, ENOUGH = 64, 16  # losses to compare with, at most and at least


class SpikeWatch:
    """Compares each loss with the 90th percentile of the losses before it.

    Attributes:
      count: number of spikes so far; one lasts until the loss is below the limit again.
    """

    def __init__(self, factor: float, memory: dict[str, Any] | None = None):
        """Starts watching.

        Args:
          factor: multiple of the percentile above which a loss is a spike; 0: off.
          memory: result of `memory` in the run's checkpoint.
        """
        memory = memory or {}
        self._factor = factor
        self._losses = collections.deque(memory.get("losses", ()), WINDOW)
        self._high = memory.get("high", False)
        self.count = memory.get("count", 0)

    def see(self, step: int, loss: float) -> None:
        """Takes the loss of the next step."""
        if not self._factor or not math.isfinite(loss):
            return
        if len(self._losses) >= ENOUGH:
            # Small losses scatter so widely that a median would raise false alarms.
            usual = statistics.quantiles(self._losses, n=10)[-1]
            high = loss > self._factor * usual > 0
            if high and not self._high:
                self.count += 1
                log.warning("step %d: loss %.4g, usually at most %.4g: a spike", step, loss, usual)
            self._high = high
        self._losses.append(loss)

    def memory(self) -> dict[str, Any]:
        """The state to store in checkpoints, so that a resumed run goes on as if never stopped."""
        return dict(count=self.count, high=self._high, losses=list(self._losses))

"""Early stopping: ends a run whose metric no longer improves (`config.checkpoint.patience`)."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vit_jax.checkpoint.keep import score
from vit_jax.errors import InputError

log = logging.getLogger(__name__)


class EarlyStop:
    """Counts the evaluations since the metric `config.checkpoint.best` was at its best.

    Attributes:
      done: whether the run is to end.
    """

    def __init__(self, config: ConfigDict):
        """Takes `config.checkpoint`.

        Raises:
          InputError: there is no metric to watch.
        """
        if config.patience and not config.best:
            raise InputError(
                f"config.checkpoint.patience is {config.patience}, but no metric is watched; set "
                'config.checkpoint.best, such as "eval/test/top1"'
            )
        self._patience, self._metric = config.patience, config.best
        self._best, self._since = -math.inf, 0

    def restore(self, memory: Mapping[str, Any] | None) -> None:
        """Goes on from the result of `memory` in the run's checkpoint."""
        best = (memory or {}).get("best")
        self._best = -math.inf if best is None else best
        self._since = (memory or {}).get("since", 0)

    @property
    def done(self) -> bool:
        """Whether the metric has not improved for `patience` evaluations."""
        return 0 < self._patience <= self._since

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of an evaluation after `step`."""
        if not self._metric:
            return
        found = score(metrics, self._metric)
        if found > self._best:
            self._best, self._since = found, 0
            return
        self._since += 1
        if self.done:
            log.info(
                "step %d: %s has not improved in %d evaluations; the run ends "
                "(config.checkpoint.patience)",
                *(step, self._metric, self._since),
            )

    def memory(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if never stopped, for the metadata."""
        return dict(best=self._best if math.isfinite(self._best) else None, since=self._since)

"""Which checkpoints of a run are kept."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict


def expendable(
    steps: Sequence[int],
    config: ConfigDict,
    is_sound: Callable[[int], bool],
    score: Callable[[int], float],
) -> list[int]:
    """Steps whose checkpoints can be deleted; checkpoints that are not sound do not count as kept.

    Args:
      steps: steps of all checkpoints, ascending.
      config: section `config.checkpoint`, with keep, keep_every and best.
      is_sound: function that says whether the checkpoint of a step is undamaged, and was not
        written while the steps were not finite.
      score: function that gives the score of a sound checkpoint, higher is better; used only
        if `config.best` is set.

    Returns:
      Steps older than the `keep` newest sound checkpoints; [] if there are fewer than `keep`.
    """
    keep = max(1, config.keep)
    recent = list(itertools.islice(filter(is_sound, reversed(steps)), keep))
    if len(recent) < keep:
        return []
    older = [step for step in steps if step < recent[-1]]
    if config.keep_every:
        older = [step for step in older if step % config.keep_every]
    if config.best and older:
        sound = [step for step in steps if is_sound(step)]
        best = max(sound, key=lambda step: (score(step), step))
        older = [step for step in older if step != best]
    return older


def score(metrics: Mapping[str, float | None], best: str) -> float:
    """The score of a checkpoint by its metrics, higher is better; -inf without the metric.

    Args:
      metrics: metrics in its metadata.
      best: name of the metric; of losses the lowest is best.
    """
    value = metrics.get(best)
    if value is None or math.isnan(value):
        return -math.inf
    return -value if best.endswith("loss") else value

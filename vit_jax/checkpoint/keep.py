"""Which checkpoints of a run stay."""

import itertools
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict


def expendable(
    steps: Sequence[int],
    config: ConfigDict,
    is_sound: Callable[[int], bool],
    score: Callable[[int], float],
) -> list[int]:
    """Which checkpoints to delete; damaged ones do not count as kept.

    Args:
      steps: of all checkpoints, ascending.
      config: `config.checkpoint`: keep, keep_every, best.
      is_sound: whether a step's checkpoint shows no damage.
      score: the higher the better, of sound checkpoints; asked where `config.best` is set.

    Returns:
      Steps older than the `keep` newest sound ones; none where there are not as many.
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

"""Average precision: how well scores rank the images of a class above the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def average_precision(scores: np.ndarray, right: np.ndarray) -> float | None:
    """The mean, over steps of recall, of the precision at that recall; equal scores are one step.

    Args:
      scores: scores of one class, (n,).
      right: whether each image has the class, bool (n,).

    Returns:
      A number from 0 to 1; None if no image has the class.
    """
    if not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each equal score
    precision = found[last] / (last + 1)
    return float((np.diff(found[last], prepend=0) * precision).sum() / found[-1])


def average_precisions(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Average precision of each class and their mean.

    Args:
      scores: (n, classes).
      labels: above zero where an image has the class, (n, classes).
      names: class names by number; a class without one is called by its number.

    Returns:
      {"mean_average_precision", "average_precision": {name: number, or None for a class that no
      image has; it does not count in the mean}}.
    """
    by_class = [average_precision(scores[:, k], labels[:, k] > 0) for k in range(scores.shape[1])]
    known = [value for value in by_class if value is not None]
    return dict(
        mean_average_precision=float(np.mean(known)) if known else 0.0,
        average_precision={
            names[k] if k < len(names) else str(k): value for k, value in enumerate(by_class)
        },
    )

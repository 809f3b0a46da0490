"""Calibration: whether a classifier is right as often as its probabilities say."""

from typing import Any

import numpy as np

BINS = 15  # as in 1706.04599


def calibration(probability: np.ndarray, right: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """The expected calibration error (Guo et al., 1706.04599, section 2).

    The interval from 0 to 1 is cut into bins of equal width, each closed above. The error is the
    mean over bins of |accuracy - mean probability|, weighted by the number of examples.

    Args:
      probability: of the predicted classes, (n,).
      right: whether the predicted classes are right, (n,).
      bins: number of bins.

    Returns:
      `ece`, 0 without examples, and `calibration`: for each bin `low`, `high`, `count`,
      `confidence` (mean probability) and `accuracy`; the last two are None in an empty bin.
    """
    probability, right = np.asarray(probability, np.float64), np.asarray(right, np.float64)
    places = np.clip(np.ceil(np.nan_to_num(probability) * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sure, hits = (np.bincount(places, values, bins) for values in (probability, right))
    gap = np.abs(hits - sure).sum() / max(len(right), 1)
    return dict(
        ece=float(gap),
        calibration=[
            dict(
                low=i / bins,
                high=(i + 1) / bins,
                count=int(counts[i]),
                confidence=float(sure[i] / counts[i]) if counts[i] else None,
                accuracy=float(hits[i] / counts[i]) if counts[i] else None,
            )
            for i in range(bins)
        ],
    )

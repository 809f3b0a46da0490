"""Accuracy and loss over a data set, every example counted once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from vit_jax.parallel.engines import Engine


def classify(
    eval_step: Callable, engine: Engine, params: Any, batches: Iterable[dict], batch_size: int
) -> dict[str, float]:
    """Runs a compiled evaluation step over all batches.

    Args:
      eval_step: (params, batch) -> sums of loss, top1, top5, examples.
      engine: places batches.
      params: of the model.
      batches: this process's part of each global batch, as `data.eval_batches` yields.
      batch_size: of the global batch.

    Returns:
      `top1` and `top5` (shares of examples), `loss` (mean) and `examples` (count).
    """
    totals = dict.fromkeys(("loss", "top1", "top5", "examples"), 0.0)
    pending = None
    for batch in batches:
        arrays = {name: batch[name] for name in ("image", "label", "mask")}
        sums = eval_step(params, engine.put_batch(arrays, batch_size))
        # The previous batch is fetched while the device works on this one.
        _add(totals, pending)
        pending = sums
    _add(totals, pending)
    examples = totals.pop("examples")
    means = {name: total / max(examples, 1) for name, total in totals.items()}
    return dict(means, examples=int(examples))


def _add(totals: dict[str, float], sums: dict[str, jax.Array] | None) -> None:
    for name, value in (sums or {}).items():
        totals[name] += float(np.asarray(value))

"""Accuracy and loss over a data set, every example counted once."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.data import Source
from vit_jax.parallel.engines import Engine

log = logging.getLogger(__name__)


def classify(
    eval_step: Callable,
    engine: Engine,
    params: Any,
    batches: Iterable[dict],
    batch_size: int,
    fields: Sequence[str] = ("image", "label"),
) -> dict[str, float]:
    """Runs a compiled evaluation step over all batches.

    Args:
      eval_step: (params, batch) -> sums by name, and of `examples`.
      engine: places batches.
      params: of the model.
      batches: this process's part of each global batch, as `data.eval_batches` yields.
      batch_size: of the global batch.
      fields: parts of a batch that the step takes, besides `mask`.

    Returns:
      The mean over examples of each sum, such as `top1`, `top5` and `loss`; and `examples`
      (count).
    """
    totals: dict[str, float] = {}
    pending = None
    for batch in batches:
        arrays = {name: batch[name] for name in (*fields, "mask")}
        sums = eval_step(params, engine.put_batch(arrays, batch_size))
        # The previous batch is fetched while the device works on this one.
        _add(totals, pending)
        pending = sums
    _add(totals, pending)
    examples = totals.pop("examples", 0.0)
    means = {name: total / max(examples, 1) for name, total in totals.items()}
    return dict(means, examples=int(examples))


def renumbered(batches: Iterable[dict], source: Source, labels: Sequence[str]) -> Iterable[dict]:
    """Batches with the model's class numbers in place of the data's.

    Class names decide if the model knows all of the data's: folders are numbered by alphabet,
    and one that lacks classes numbers the rest otherwise.

    Args:
      batches: of `source`.
      source: where they come from.
      labels: the model's class names by number; [] where unknown.
    """
    numbers = _numbers_by_name(source, list(labels))
    if numbers is None:
        return batches
    return (dict(batch, label=numbers(batch["label"])) for batch in batches)


def _numbers_by_name(
    source: Source, labels: list[str]
) -> Callable[[np.ndarray], np.ndarray] | None:
    """From the data's labels to the model's; None where the data's own numbers count."""
    names = list(source.label_names)
    if not labels or names == labels[: len(names)]:
        return None
    numbers = {name: number for number, name in enumerate(labels)}
    if len(numbers) < len(labels) or not numbers.keys() >= set(names):
        log.info("classes of %s have other names than the model's: numbers count", source.name)
        return None
    places = np.array([numbers[name] for name in names], np.int32)
    if not source.multi_label:
        return lambda label: places[label]

    def spread(sets: np.ndarray) -> np.ndarray:
        wide = np.zeros((len(sets), len(labels)), sets.dtype)
        wide[:, places] = sets
        return wide

    return spread


def _add(totals: dict[str, float], sums: dict[str, jax.Array] | None) -> None:
    for name, value in (sums or {}).items():
        totals[name] = totals.get(name, 0.0) + float(np.asarray(value))

"""Splits and slices in the syntax of tfds: "train", "train[:80%]+test[100:]", "all"."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from vit_jax.data import order
from vit_jax.errors import InputError, nearest
from vit_jax.text import some

_BOUND = r"(-?\d+(?:\.\d+)?%|-?\d+)?"
_PART = re.compile(rf"([A-Za-z_][\w.-]*)(?:\[{_BOUND}:{_BOUND}\])?")
_SLICE_SEED = 0  # so that slices are the same in every run


class UnknownSplit(InputError):
    """The data have no split of a name."""


def no_split(source: str, name: str, known: Iterable[str]) -> UnknownSplit:
    """The error for a split that the data do not have: names those that there are."""
    known = list(known)
    return UnknownSplit(
        f"unknown split {name!r} of {source}{nearest(name, known)}; its splits: "
        f"{some(known, 10)}; all: every one of them"
    )


def parse(split: str) -> list[tuple[str, str | None, str | None]]:
    """The parts of a split: (name, lower bound, upper bound), bounds as written or None.

    Raises:
      InputError: the text is not a split.
    """
    parts: list[tuple[str, str | None, str | None]] = []
    for text in split.split("+"):
        match = _PART.fullmatch(text.strip())
        if not match:
            raise InputError(
                f"bad slice {text.strip()!r} in split {split!r}; write e.g. train, train[:80%] "
                "or train[1000:]+test"
            )
        parts.append((match[1], match[2], match[3]))
    return parts


def _absolute(bound: str, size: int, split: str) -> int:
    """A bound as a row number; percentages round to the nearest row, as in tfds."""
    if bound.endswith("%"):
        percent = float(bound[:-1])
        if abs(percent) > 100:
            raise InputError(f"split {split!r}: {bound} is beyond 100%")
        row = round(size * percent / 100)
    else:
        row = int(bound)
        if abs(row) > size:
            raise InputError(f"split {split!r}: {bound} is beyond the {size} examples there are")
    return row + size if bound.startswith("-") else row


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """A fixed order of rows in which every slice has the classes in their proportions.

    The examples of each class, in a fixed pseudo-random order, are spread evenly over the
    whole. For labels (n, k) (sets of classes) the order is plainly pseudo-random.
    """
    n = len(labels)
    shuffled = order.permutation(np.arange(n), 0, seed=_SLICE_SEED, size=n)
    if labels.ndim > 1:
        return shuffled
    grouped = shuffled[np.argsort(labels[shuffled], kind="stable")]
    classes, starts, counts = np.unique(labels[grouped], return_index=True, return_counts=True)
    rank = np.arange(n) - np.repeat(starts, counts)
    phase = order.mix32(classes.astype(np.uint32) + np.uint32(1)) / 2.0**32
    return grouped[np.argsort((rank + np.repeat(phase, counts)) / np.repeat(counts, counts))]


def select(
    split: str, sizes: Mapping[str, int], labels: Callable[[str], np.ndarray], source: str
) -> list[tuple[str, np.ndarray]]:
    """Selects the rows of each part of a split, for sources that have no slicing themselves.

    Slices are cut from `balanced_order`: slices with disjoint bounds share no row, and each
    has every class. Within a slice rows keep their order. "all" means every split.

    Args:
      split: split in tfds syntax.
      sizes: number of rows of each split.
      labels: function from a split's name to its labels.
      source: name of the data in messages.

    Returns:
      (split name, row numbers) pairs.

    Raises:
      UnknownSplit: there is no split of that name.
      InputError: a bad slice, or no row selected.
    """
    selected = []
    for name, low, high in parse(split):
        if name != "all" and name not in sizes:
            raise no_split(source, name, sizes)
        for part in sizes if name == "all" else [name]:
            size = sizes[part]
            first = _absolute(low, size, split) if low else 0
            last = _absolute(high, size, split) if high else size
            whole = (first, last) == (0, size)
            rows = np.arange(size) if whole else balanced_order(labels(part))[first:last]
            selected.append((part, np.sort(rows)))
    if not sum(len(rows) for _, rows in selected):
        raise InputError(f"split {split!r} of {source} holds no examples")
    return selected


def rows_of_all(parts: list[tuple[str, np.ndarray]], sizes: Mapping[str, int]) -> np.ndarray:
    """Selected rows as numbers among all rows of all splits: int64 (n,)."""
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()])))
    return np.concatenate([starts[part] + rows for part, rows in parts])

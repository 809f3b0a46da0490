"""Numbers the classes of a column of labels, as folders of images are numbered."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vit_jax.data.sources import splits
from vit_jax.data.sources.folder import sort_classes
from vit_jax.data.sources.opening import Request
from vit_jax.errors import InputError
from vit_jax.text import shown, some

Names = tuple[str, ...]  # the classes of a row; () if it has none
NO_LABEL = -1
_SEPARATORS = re.compile(r"[;|]")


@dataclasses.dataclass(frozen=True)
class Column:
    """The labels of all rows, as they are written.

    Attributes:
      codes: number of each row's label in `values`, int32 (n,); `NO_LABEL`: it has none.
      values: distinct labels, each one or several names.
      names: class names by number, if the table has such a list; None: the names that occur.
    """

    codes: np.ndarray
    values: Sequence[Names]
    names: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The examples of a split.

    Attributes:
      rows: rows of the examples, int64 (n,).
      targets: classes, int32 (n,), or sets of classes, uint8 (n, classes).
      label_names: class names by number.
    """

    rows: np.ndarray
    targets: np.ndarray
    label_names: list[str]


def split_cells(values: Sequence[Names]) -> list[Names]:
    """Cells with several labels as sets: "cat; dog", "cat|dog" or "cat dog".

    Blanks separate labels only where no cell has a ";" or a "|", as names may hold blanks.
    """
    marked = any(_SEPARATORS.search(name) for names in values for name in names)
    sets = []
    for names in values:
        parts = [
            part.strip()
            for name in names
            for part in (_SEPARATORS.split(name) if marked else name.split())
        ]
        sets.append(tuple(dict.fromkeys(part for part in parts if part)))
    return sets


def holds_sets(values: Sequence[Names]) -> str:
    """The first cell that looks like several labels, as "cat;dog"; "" if none does."""
    return next((name for names in values for name in names if _SEPARATORS.search(name)), "")


def choose(
    column: Column,
    rows: Mapping[str, np.ndarray],
    *,
    request: Request,
    describe: Callable[[int], str],
) -> Chosen:
    """Selects the rows of a split, and numbers their classes by those of the training split.

    Args:
      column: labels of all rows.
      rows: rows of each split, int64.
      request: options of the source: its split, name, and whether labels are sets of classes.
      describe: function from a row to its place in the files, for messages.

    Raises:
      InputError: an unknown split, no examples, a row without label, sets of classes without
        `request.multi_label`, or a class that the training split lacks.
    """
    name, split, multi_label = request.name, request.split, request.multi_label
    if not multi_label and any(len(names) > 1 for names in column.values):
        raise InputError(
            f"{name} holds sets of classes; set data.multi_label=True (and loss.name='sigmoid')"
        )
    if column.names is not None and len(set(column.names)) < len(column.names):
        twice = next(label for label in column.names if list(column.names).count(label) > 1)
        raise InputError(f"{name} names two classes {twice!r}; rename one")
    order = {part: rows[part] for part in sorted(rows)}
    first = "train" if "train" in order else next(iter(order))
    label_names = (
        list(column.names) if column.names is not None else _occurring(column, rows[first])
    )
    targets = _numbered(column, label_names, multi_label)
    sizes = {part: len(found) for part, found in order.items()}
    parts = splits.select(split, sizes, lambda part: targets(order[part]), name)
    chosen = np.concatenate([order[part][numbers] for part, numbers in parts])
    bad = _first_bad(column, label_names, chosen, multi_label)
    if bad is not None:
        where = describe(int(chosen[bad]))
        code = column.codes[chosen[bad]]
        if code == NO_LABEL:
            raise InputError(f"{where} has no label; give it one, or leave it out of {split!r}")
        raise InputError(
            f"{where} has the class {_unknown(column.values[code], label_names)}, which is not "
            f"among the {len(label_names)} classes of {first}: {some(label_names)}"
        )
    if not label_names:
        raise InputError(f"{name}: no row of {first} has a label")
    return Chosen(chosen, targets(chosen), label_names)


def _occurring(column: Column, rows: np.ndarray) -> list[str]:
    """The sorted classes of some rows."""
    used = np.unique(column.codes[rows])
    return sort_classes(list({name for code in used if code >= 0 for name in column.values[code]}))


def _numbered(
    column: Column, label_names: Sequence[str], multi_label: bool
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from rows to their targets; unknown classes are -1, or missing in a set."""
    number = {label: i for i, label in enumerate(label_names)}
    if not multi_label:
        classes = [number.get(names[0], -1) if names else -1 for names in column.values]
        table = np.array([*classes, -1], np.int32)  # the last is NO_LABEL's
        return lambda rows: table[column.codes[rows]]
    sets = np.zeros((len(column.values) + 1, len(label_names)), np.uint8)
    for code, names in enumerate(column.values):
        sets[code, [number[label] for label in names if label in number]] = 1
    return lambda rows: sets[column.codes[rows]]


def _first_bad(
    column: Column, label_names: Sequence[str], rows: np.ndarray, multi_label: bool
) -> int | None:
    """The first of the rows without a label, or with an unknown one."""
    known = set(label_names)
    good = [known.issuperset(names) and (multi_label or bool(names)) for names in column.values]
    wrong = np.flatnonzero(~np.array([*good, multi_label])[column.codes[rows]])
    return int(wrong[0]) if len(wrong) else None


def _unknown(names: Names, label_names: Sequence[str]) -> str:
    return shown(next((name for name in names if name not in set(label_names)), ""))

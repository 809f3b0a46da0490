"""Prints predictions, one image at a time: lines, a table on a terminal, JSON, CSV."""

import csv
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from vit_jax.text import printable

Result = dict[str, Any]  # see `evaluate.predict.predict`
LABEL_WIDTH = 40  # most columns of a class name in a table
_GAP = "  "
_PERCENT = 11  # columns, as many as the word "probability" has


class Lines:
    """`path: class 98.1%, class 1.2%`, a line an image; also what the other printers do."""

    def __init__(self, threshold: float | None = None):
        """`threshold`: smallest probability of the listed classes; None: none."""
        self._threshold = threshold

    def show(self, result: Result) -> None:
        """Prints an image's classes; nothing for an image that cannot be read."""
        if "error" in result:
            return
        named = ", ".join(
            f"{printable(top['label'])} {top['probability']:.1%}" for top in result["top"]
        )
        print(f"{printable(result['path'])}: {named or self.nothing}")

    @property
    def nothing(self) -> str:
        """What is said of an image without classes."""
        return (
            "no classes" if self._threshold is None else f"no class at {self._threshold:g} or above"
        )

    def close(self) -> None:
        """Prints what belongs to the end."""


class Table(Lines):
    """A table with a row a class; each image is named once."""

    def __init__(self, paths: Sequence[str], labels: Sequence[str], threshold: float | None):
        """Takes the images and the classes, which decide the widths of columns."""
        super().__init__(threshold)
        columns = shutil.get_terminal_size().columns
        self._labels = min(max((len(printable(one)) for one in labels), default=5), LABEL_WIDTH)
        most = max(20, columns - self._labels - _PERCENT - 2 * len(_GAP))
        self._paths = min(max([5, *(len(printable(path)) for path in paths)]), most)
        self._begun = False

    def show(self, result: Result) -> None:
        if "error" in result:
            return
        if not self._begun:
            self._begun = True
            self._row("image", "class", "probability")
        name = printable(result["path"])
        if len(name) > self._paths:  # its end says more than its beginning
            name = "…" + name[1 - self._paths :]
        rows = [(printable(t["label"]), f"{t['probability']:.1%}") for t in result["top"]]
        for label, share in rows or [(self.nothing, "")]:
            self._row(name, label, share)
            name = ""

    def _row(self, name: str, label: str, share: str) -> None:
        cut = label if len(label) <= LABEL_WIDTH else label[: LABEL_WIDTH - 1] + "…"
        row = f"{name:<{self._paths}}{_GAP}{cut:<{self._labels}}{_GAP}{share:>{_PERCENT}}"
        print(row.rstrip())


class Json(Lines):
    """One JSON document, a list that is written item by item."""

    def __init__(self):
        super().__init__()
        self._begun = False

    def show(self, result: Result) -> None:
        print(",\n" if self._begun else "[\n", end="")
        print(textwrap.indent(json.dumps(result, indent=2), "  "), end="")
        self._begun = True

    def close(self) -> None:
        print("\n]" if self._begun else "[]")


class Csv(Lines):
    """Comma-separated values, a row a class; an image that cannot be read has one with `error`.

    Control characters in names are escaped, as in lines.
    """

    COLUMNS = ("path", "rank", "label", "index", "probability", "error")

    def __init__(self):
        super().__init__()
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._begun = False

    def show(self, result: Result) -> None:
        self._begin()
        path, error = printable(result["path"]), printable(result.get("error", ""))
        for rank, top in enumerate(result["top"], 1):
            row = (rank, printable(top["label"]), top["index"], f"{top['probability']:.6g}")
            self._writer.writerow((path, *row, error))
        if not result["top"]:
            self._writer.writerow((path, "", "", "", "", error))

    def close(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._writer.writerow(self.COLUMNS)
            self._begun = True

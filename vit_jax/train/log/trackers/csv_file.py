"""A table of metrics, for spreadsheets and pandas."""

import csv
import dataclasses
import io
import math
from pathlib import Path

from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.train.log.trackers.tracker import TRACKERS, Start, Tracker, Writer


@TRACKERS.register("csv")
@dataclasses.dataclass(frozen=True)
class CsvFile(Tracker):
    """A CSV file with a row for each logged step, and a column for each metric.

    Attributes:
      file: name of the file in the workdir.
    """

    title = "CSV rows"
    file: str = "metrics.csv"

    def check(self) -> None:
        """Refuses names that lead out of the workdir."""
        if not self.file.endswith(".csv") or Path(self.file).name != self.file:
            raise InputError(
                f"config.log.trackers: csv(file={self.file!r}): give a name that ends with .csv, "
                "without a folder"
            )

    def open(self, start: Start) -> Writer:
        """Opens the file; rows of steps that come again are dropped."""
        return _Rows(start.workdir / self.file, start.step)


class _Rows(Writer):
    def __init__(self, path: Path, step: int):
        self._path = path
        self._columns: list[str] = ["step"]
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                self._columns = [*(reader.fieldnames or self._columns)]
                rows = [row for row in reader if _step(row) <= step]
        self._rewrite(rows)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        new = [name for name in values if name not in self._columns]
        if new:
            with self._path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            self._columns += new
            self._rewrite(rows)
        cells = [str(step)] + [_cell(values.get(name)) for name in self._columns[1:]]
        with self._path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        lines = [self._columns, *([row.get(name) or "" for name in self._columns] for row in rows)]

        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        write_atomic(self._path, text.getvalue())


def _step(row: dict[str, str]) -> float:
    """The step of a row; infinity for one that a kill has torn."""
    try:
        return math.inf if None in row.values() else int(row["step"])
    except (KeyError, ValueError):
        return math.inf


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)

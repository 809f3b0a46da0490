"""Tables that name image files: `csv:FILE` reads CSV, TSV and JSON lines.

A row has the path of an image, relative to the table's folder, its label or labels, and
optionally its split. Several labels stand in one cell, or there is a column of 0 and 1 for
each class. Hugging Face's metadata.csv and metadata.jsonl have this form.
"""

import array
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax.data.sources.folder import Paths, sort_classes
from vit_jax.data.sources.opening import Request
from vit_jax.data.sources.source import FileSource
from vit_jax.data.sources.tables import classes, names
from vit_jax.data.sources.tables.files import FileSizes
from vit_jax.data.sources.tables.query import parse_known
from vit_jax.data.sources.tables.rows import Cell, open_rows
from vit_jax.errors import InputError
from vit_jax.text import printable, shown, some

log = logging.getLogger(__name__)

_ZERO, _ONE = ("0", "0.0", "", "false"), ("1", "1.0", "true")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of a table.

    Attributes:
      path: number of the column of paths.
      labels: number of the column of labels, or of a column for each class.
      classes: class of each of several columns; (): there is one column of labels.
      split: number of the column of splits; None: the file's name tells.
    """

    path: int
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    split: int | None


def layout(where: str, columns: Sequence[str], options: Mapping[str, str]) -> Layout:
    """Finds the columns of a table by the names asked for, or by their usual names.

    Args:
      where: name of the table in messages.
      columns: names of the columns.
      options: names asked for: "path", "label" (several with commas), "split".

    Raises:
      InputError: there is no such column.
    """

    def find(what: str, usual: tuple[str, ...]) -> str | None:
        if what in options:
            return names.existing(where, options[what], columns)
        return names.usual(columns, usual)

    path, split = find("path", names.PATHS), find("split", names.SPLIT)
    there = f"its columns are {some([printable(shown(name)) for name in columns], 12)}"
    if path is None:
        raise InputError(
            f"{where} has no column {_either(names.PATHS)}; {there}; name it: ?path=COLUMN"
        )
    asked = options.get("label", "")
    if asked and asked not in columns and "," in asked:
        per_class = [names.existing(where, name.strip(), columns) for name in asked.split(",")]
    elif label := find("label", names.LABELS):
        return Layout(
            columns.index(path),
            (columns.index(label),),
            (),
            None if split is None else columns.index(split),
        )
    else:
        per_class = [name for name in columns if name and name not in (path, split)]
    if not per_class:
        raise InputError(
            f"{where} has no column {_either(names.LABELS)}; {there}; name it: ?label=COLUMN"
        )
    return Layout(
        columns.index(path),
        tuple(columns.index(name) for name in per_class),
        tuple(per_class),
        None if split is None else columns.index(split),
    )


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


class _Reader:
    """Collects the rows of tables in compact form.

    Attributes:
      lines, tables: line and number of the table of each row.
      paths: paths below `root`, joined; `lengths`: their lengths in bytes.
      codes: label of each row, an index into `values`.
    """

    def __init__(self, root: str, options: Mapping[str, str], follow_links: bool):
        self.root, self.options, self.follow_links = root, options, follow_links
        self.files: list[str] = []
        self.lines, self.tables = array.array("q"), array.array("i")
        self.paths, self.lengths = bytearray(), array.array("i")
        self.codes = array.array("i")
        self.values: dict[classes.Names, int] = {}
        self.splits: dict[str, array.array] = {}
        self.classes: tuple[str, ...] = ()

    def read(self, file: str) -> None:
        """Adds the rows of a table."""
        columns, rows = open_rows(file)
        found = layout(file, columns, self.options)
        if self.files and set(found.classes) != set(self.classes):
            raise InputError(f"{file} has other columns of classes than {self.files[0]}")
        self.classes = found.classes
        number, before, named = len(self.files), len(self.lines), names.split_of(file)
        self.files.append(file)
        beside = os.path.join(os.path.dirname(os.path.abspath(file)), "")
        for line, cells in rows:
            where = f"{file} line {line}"
            path = self._path(where, cells[found.path], beside)
            split = named if found.split is None else self._split(where, cells[found.split])
            self.splits.setdefault(split, array.array("q")).append(len(self.lines))
            self.lines.append(line)
            self.tables.append(number)
            self.paths += path
            self.lengths.append(len(path))
            self.codes.append(self._code(where, [cells[i] for i in found.labels], columns, found))
        if len(self.lines) == before:
            raise InputError(f"{file} has no rows below its first line")

    def _path(self, where: str, cell: Cell, beside: str) -> bytes:
        """A path as it is opened: below the root, or absolute."""
        if not isinstance(cell, str) or not cell.strip():
            raise InputError(f"{where} has no path, but {shown(cell)}")
        if "\0" in cell:
            raise InputError(f"{where}: {shown(cell)} is no path")
        path = os.path.normpath(os.path.join(beside, cell.strip()))
        if not path.startswith(beside) and not self.follow_links:
            raise InputError(
                f"{where} names {shown(cell, 80)}, outside the table's folder; "
                "data.follow_links=True reads it"
            )
        try:
            return os.fsencode(path.removeprefix(os.path.join(self.root, "")))
        except UnicodeEncodeError:
            raise InputError(f"{where}: {shown(cell)} is no path") from None

    def _split(self, where: str, cell: Cell) -> str:
        if not isinstance(cell, str) or not cell.strip():
            raise InputError(f"{where} has no split, but {shown(cell)}")
        return cell.strip()

    def _code(
        self, where: str, cells: Sequence[Cell], columns: Sequence[str], found: Layout
    ) -> int:
        """The number of a label among the distinct ones."""
        if found.classes:
            value = tuple(
                name
                for name, cell, column in zip(found.classes, cells, found.labels)
                if _is_one(where, columns[column], cell)
            )
        else:
            value = _names_of(where, cells[0])
            if not value:
                return classes.NO_LABEL
        return self.values.setdefault(value, len(self.values))


def _is_one(where: str, column: str, cell: Cell) -> bool:
    text = str(cell if cell is not None else "").strip().lower()
    if text not in _ZERO + _ONE:
        raise InputError(
            f"{where}: column {column!r} holds {shown(cell)}, where a column of a class holds 0 "
            "or 1; name the column of labels, or the columns of classes: ?label=COLUMN,COLUMN"
        )
    return text in _ONE


def _names_of(where: str, cell: Cell) -> classes.Names:
    """The class names in a cell, which may be a list in JSON."""
    if isinstance(cell, list):
        return tuple(dict.fromkeys(name for part in cell for name in _names_of(where, part)))
    if cell is None:
        return ()
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if not isinstance(cell, (str, int)) or isinstance(cell, bool):
        raise InputError(f"{where}: label {shown(cell)} is neither a name nor a whole number")
    text = str(cell).strip()
    return (text,) if text else ()


def open_listed(files: Sequence[str], options: Mapping[str, str], request: Request) -> FileSource:
    """Opens tables of image files as one source.

    Args:
      files: paths of the tables.
      options: names of columns, see `layout`.
      request: options of the source; `follow_links` also allows files outside a table's folder.

    Raises:
      InputError: a table that cannot be read, a missing column, a row without path or label, or
        an image that is missing.
    """
    root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    reader = _Reader(root, options, request.follow_links)
    for file in files:
        reader.read(file)
    lengths = np.frombuffer(reader.lengths, np.int32)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    paths = Paths(os.fsencode(root), bytes(reader.paths), starts, lengths)
    lines, tables = np.frombuffer(reader.lines, np.int64), np.frombuffer(reader.tables, np.int32)

    def describe(row: int) -> str:
        return f"{files[tables[row]]} line {lines[row]}"

    chosen = classes.choose(
        _column(reader, request),
        {part: np.frombuffer(rows, np.int64) for part, rows in reader.splits.items()},
        request=request,
        describe=describe,
    )
    sizes = FileSizes(paths, files, request.follow_links, request.cache_dir)
    sizes.check(chosen.rows, describe)
    return FileSource(
        size=len(chosen.rows),
        label_names=chosen.label_names,
        files=dataclasses.replace(paths, starts=starts[chosen.rows], lengths=lengths[chosen.rows]),
        targets=chosen.targets,
        file_sizes=sizes.sizes[chosen.rows],
        rows=chosen.rows,
        **request.common,
    )


def _column(reader: _Reader, request: Request) -> classes.Column:
    """The labels of all rows; cells with several of them are split if `request.multi_label`."""
    values = list(reader.values)
    if reader.classes:
        if not request.multi_label:
            raise InputError(
                f"{request.name} has no column {_either(names.LABELS)}, so the columns "
                f"{some([printable(part) for part in reader.classes])} are read as classes; set "
                "data.multi_label=True (and loss.name='sigmoid'), or name the column: ?label=COLUMN"
            )
        columns: Sequence[str] | None = sort_classes(list(reader.classes))
        return classes.Column(np.frombuffer(reader.codes, np.int32), values, columns)
    if request.multi_label:
        values = classes.split_cells(values)
    elif example := classes.holds_sets(values):
        log.warning(
            "%s: cells such as %r are read as one class each; data.multi_label=True reads them as "
            "several", request.name, example,
        )  # fmt: skip
    return classes.Column(np.frombuffer(reader.codes, np.int32), values)


def open_csv(argument: str, request: Request) -> FileSource:
    """Opens `csv:FILE?path=COLUMN&label=COLUMN&split=COLUMN`; FILE may be a glob.

    Raises:
      InputError: as `open_listed`, or an unknown option.
    """
    pattern, options = parse_known("csv", argument, ("path", "label", "split"))
    return open_listed(names.matching("csv", pattern), options, request)

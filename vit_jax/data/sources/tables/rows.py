"""Reads the rows of CSV, TSV and JSON lines files one by one."""

import csv
import json
from collections.abc import Iterator, Sequence
from typing import TextIO

from vit_jax.errors import InputError
from vit_jax.text import first_line, reason, shown, some

# A cell of a CSV file is text; one of JSON lines any JSON value, None where a row lacks it.
Cell = object
Rows = Iterator[tuple[int, Sequence[Cell]]]  # line number from 1, and a cell per column

JSON_LINES = (".jsonl", ".json", ".ndjson")


def open_rows(path: str) -> tuple[list[str], Rows]:
    """The columns of a table and an iterator over its rows.

    A CSV file has its columns in the first line, separated by commas; by tabs in a file that
    ends in .tsv; or by tabs or semicolons where the first line has these and no comma. The
    columns of JSON lines are the keys of the first line.

    Raises:
      InputError: the file cannot be read, is empty, or has a column twice; in the iterator: a
        row that cannot be read, with its line number.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline(2**20)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    if not first.strip():
        raise InputError(f"{path} is empty; its first line names the columns")
    if path.lower().endswith(JSON_LINES):
        return _json_lines(path)
    return _csv(path, _delimiter(path, first))


def _delimiter(path: str, first: str) -> str:
    if path.lower().endswith(".tsv"):
        return "\t"
    return next((mark for mark in ",\t;" if mark in first), ",")


def _open(path: str) -> TextIO:
    # Names of files that are not UTF-8 come back as they are by os.fsencode.
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _csv(path: str, delimiter: str) -> tuple[list[str], Rows]:
    def rows() -> Rows:
        with _open(path) as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            line = 0
            try:
                for cells in reader:
                    yield line + 1, cells
                    line = reader.line_num
            except csv.Error as error:
                raise InputError(f"{path} line {line + 1}: {error}") from None

    read = rows()
    header = [str(name).strip() for name in next(read)[1]]
    for name in header:
        if name and header.count(name) > 1:
            raise InputError(f"{path} has the column {name!r} twice; rename one")

    def checked() -> Rows:
        for line, cells in read:
            if not cells:
                continue  # a blank line
            if len(cells) != len(header):
                raise InputError(
                    f"{path} line {line} has {len(cells)} cells, the first line {len(header)}"
                )
            yield line, cells

    return header, checked()


def _json_lines(path: str) -> tuple[list[str], Rows]:
    def objects() -> Iterator[tuple[int, dict[str, Cell]]]:
        with _open(path) as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    found = json.loads(text, object_pairs_hook=_once)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path} line {line}: {first_line(error)}") from None
                if not isinstance(found, dict):
                    raise InputError(
                        f"{path} line {line} is {shown(found)}; each line must be a JSON object"
                    )
                yield line, found

    _, first = next(objects())
    header = list(first)
    return header, ((line, [row.get(name) for name in header]) for line, row in objects())


def _once(pairs: list[tuple[str, Cell]]) -> dict[str, Cell]:
    """An object whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = [name for name in found if names.count(name) > 1]
        raise ValueError(f"it has {some(twice)} twice; rename one")
    return found

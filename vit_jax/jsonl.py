"""Files with one JSON object per line; they survive a kill at any moment."""

import contextlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from vit_jax import schema
from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.text import some

log = logging.getLogger(__name__)


def read(path: Path, *kinds: Any, aside: bool = False) -> list[dict[str, Any]]:
    """The lines of a file that fit a schema, [] if there is no file; the others are reported.

    A last line without its end, which a kill has torn, is dropped silently.

    Args:
      path: path of the file.
      *kinds: types that every line has to fit; see `schema.check`.
      aside: whether to append damaged lines to `path`.damaged, or to move what is no file there.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        *whole, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        _move_aside(path, aside)
        return []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    lines, damaged, problems = [], [], []
    for number, content in enumerate([*whole, last], 1):
        try:
            lines.append(_checked(content, kinds))
        except ValueError as error:
            if number <= len(whole):
                damaged.append(content)
                problems.append(f"line {number}: {error}")
    if damaged:
        kept = f"; kept in {_damaged(path).name}" if aside and _append(path, damaged) else ""
        log.warning("%s: damaged lines are left out%s: %s", path, kept, some(problems, 2, "; "))
    return lines


def _checked(content: bytes, kinds: tuple[Any, ...]) -> dict[str, Any]:
    line = schema.parse(content)
    for kind in (dict, *kinds):
        schema.check(line, kind)
    for name, value in line.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}, which is never written")
    return line


def _damaged(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def _append(path: Path, lines: list[bytes]) -> bool:
    """Appends damaged lines to the file beside; returns whether that was possible."""
    try:
        with _damaged(path).open("ab") as file:
            file.writelines(line + b"\n" for line in lines)
    except OSError:
        return False
    return True


def _move_aside(path: Path, aside: bool) -> None:
    """Moves a directory in place of a file to a free name beside it."""
    names = (_damaged(path).with_suffix(f".damaged{i or ''}") for i in range(1000))
    target = next(name for name in names if not name.exists())
    try:
        if aside:
            path.rename(target)
            log.warning("%s is a directory; it is %s now", path, target)
    except OSError as error:
        raise InputError(f"{path} is a directory; move it: {error.strerror}") from error


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same with null for numbers that JSON does not have: NaN and infinities."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def replace(path: Path, lines: list[dict[str, Any]]) -> None:
    """Rewrites a file in one atomic step.

    Raises:
      InputError: it cannot be written.
    """
    try:
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


class Appender:
    """Appends lines to a file; lines that the disk refuses are kept and written later."""

    def __init__(self, path: Path):
        """Opens the file.

        Raises:
          InputError: it cannot be opened.
        """
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        self._backlog = b""
        self._refused = False

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line, after those that wait."""
        self._backlog += json.dumps(line).encode() + b"\n"
        try:
            while self._backlog:
                self._backlog = self._backlog[self._file.write(self._backlog) :]
            self._refused = False
        except OSError as error:
            if not self._refused:
                log.error("%s: %s; its lines wait", self._path, error.strerror)
            self._refused = True

    def sync(self) -> None:
        """Asks the operating system to write its buffers; errors are ignored."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

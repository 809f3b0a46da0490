"""Files of one JSON object a line that survive a kill at any moment."""

import contextlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from vit_jax.files import write_atomic

log = logging.getLogger(__name__)


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file, [] where there is none; what a kill has torn is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The same with null for numbers that JSON does not have: NaN and infinities."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def replace(path: Path, lines: list[dict[str, Any]]) -> None:
    """Rewrites a file in one atomic step."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


class Appender:
    """Appends lines to a file; what a full or absent disk refuses is kept and written later."""

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("ab", buffering=0)
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
        """Has the operating system write what it has; it may be unable to."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

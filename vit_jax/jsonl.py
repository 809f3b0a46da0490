"""Files with one JSON object per line, which stay readable after a kill at any moment."""

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
    """The objects of a file, [] if there is no file; incomplete lines are left out."""
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
    """The same values with None for NaN and infinities, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def replace(path: Path, lines: list[dict[str, Any]]) -> None:
    """Rewrites a file atomically."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


class Appender:
    """Appends lines to a file; lines that a full disk refuses are kept and written later."""

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._backlog = b""
        self._refused = False

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line, after the lines that are still waiting."""
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
        """Asks the operating system to write its buffers to disk; ignores failure."""
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

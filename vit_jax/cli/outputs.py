"""Checks, before a command's work, that its outputs can be written."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from vit_jax.errors import InputError
from vit_jax.text import reason


def check_file(path: str, flag: str) -> None:
    """Checks that a file can be written; an existing one will be replaced.

    Raises:
      InputError: its folder does not exist or is read-only, or the path is a folder.
    """
    if Path(path).is_dir():
        raise InputError(f"{flag}={path}: cannot be written: it is a folder; name a file")
    try:
        _try(Path(path).parent)
    except OSError as error:
        raise InputError(f"{flag}={path}: cannot be written: {reason(error)}") from error


@contextlib.contextmanager
def folder_made(path: str, flag: str) -> Iterator[None]:
    """Creates a folder for outputs, with its parents; removes it if the work fails without any.

    Raises:
      InputError: it cannot be created or written to.
    """
    new = [place for place in (Path(path), *Path(path).parents) if not place.exists()]
    try:
        try:
            Path(path).mkdir(parents=True, exist_ok=True)
            _try(Path(path))
        except OSError as error:
            raise InputError(f"{flag}={path}: cannot be written: {reason(error)}") from error
        yield
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):  # never made, or not empty
                place.rmdir()
        raise


def check_folder(path: str, flag: str) -> None:
    """Checks that a path is a folder, or nothing.

    Raises:
      InputError: something else is there.
    """
    for place in (Path(path), *Path(path).parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{flag}={path}: {place} is no folder")


@contextlib.contextmanager
def without_lines(pattern: bytes) -> Iterator[None]:
    """Drops lines of standard error that match, also those that libraries in C write."""
    matches = re.compile(pattern).search
    kept = os.dup(2)
    end, begin = os.pipe()

    def copy() -> None:
        with os.fdopen(end, "rb") as lines:
            for line in lines:
                if not matches(line):
                    os.write(kept, line)

    thread = threading.Thread(target=copy, name="standard error", daemon=True)
    sys.stderr.flush()
    os.dup2(begin, 2)
    os.close(begin)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)  # which closes the pipe
        thread.join()
        os.close(kept)


def _try(folder: Path) -> None:
    # Permissions alone do not tell: root has all of them, also in /proc.
    with tempfile.TemporaryFile(dir=folder):
        pass

"""Paths as a user writes them, and files written atomically."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def expand(path: str | Path) -> Path:
    """The path with a leading ~ replaced by the home directory, if that is known."""
    return Path(os.path.expanduser(path))


def write_atomic(path: str | Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Writes a file by renaming a complete temporary one: readers see old or new content only.

    Args:
      path: path of the file.
      content: text, or a function that writes to the open binary file.

    Raises:
      OSError: the file cannot be written; the old content stays.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode())
        os.chmod(temporary, 0o644)  # mkstemp's are private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

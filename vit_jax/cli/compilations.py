"""Compiled programs on disk, so that a run that starts again does not compile again."""

import contextlib
import hashlib
import os
import sys
import time
from pathlib import Path

DIRECTORY = Path("~/.cache/vit_jax/compilations")
UNUSED_SECONDS = 30 * 24 * 3600  # entries that nobody has read for so long are deleted


def keep_compilations() -> None:
    """Has JAX keep compiled programs below DIRECTORY.

    Call it before JAX is imported. JAX_COMPILATION_CACHE_DIR names another directory;
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. A directory that cannot be made or
    written to is done without.
    """
    if "jax" in sys.modules or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    directory = DIRECTORY.expanduser() / _processor()
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        _delete_unused(directory)
        if os.access(directory, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
            # The many small programs of a start take as long together as a large one.
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _processor() -> str:
    """Tells apart processors of different abilities that share a home: programs are for one."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def _delete_unused(directory: Path) -> None:
    oldest = time.time() - UNUSED_SECONDS
    for path in directory.glob("*-cache"):
        about = path.stat()
        if max(about.st_atime, about.st_mtime) < oldest:
            path.unlink(missing_ok=True)

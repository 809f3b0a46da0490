"""A cache on disk of file lists and record indices, which are costly to make.

A table (arrays by name) is kept in `data.cache_dir`, or else beside the data, or in
~/.cache/vit_jax if the data folder is not writable. It is stored with its key and made again
when the key has changed.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.sources.archives import DAMAGED, read_archive
from vit_jax.files import write_atomic
from vit_jax.text import reason

log = logging.getLogger(__name__)

Table = dict[str, np.ndarray]

SMALL = 10_000  # rows below which nothing is kept
_KEY = "key"


def table(
    what: str,
    beside: str,
    name: str,
    key: bytes,
    make: Callable[[], Table],
    cache_dir: str = "",
    *,
    least: int | None = None,
) -> Table:
    """Returns a cached table, or makes and caches it.

    Args:
      what: kind of table, used in the file's name and in messages.
      beside: folder or address of the data.
      name: name of the table among those of the same kind and data.
      key: bytes that change whenever the table would.
      make: function that makes the table; called if no cached one has the key.
      cache_dir: folder for the file; "": beside the data, or the home folder.
      least: number of rows from which on it is kept; None: `SMALL`.

    Returns:
      The table. If it cannot be cached, a warning is logged and the next run makes it again.
    """
    digest = hashlib.blake2b(key, digest_size=16).hexdigest()
    address = "://" in beside  # of a bucket, say: no folder of this machine
    place = beside if address else os.path.abspath(beside)
    name = hashlib.blake2b(f"{place}\0{name}".encode(), digest_size=6).hexdigest()
    folders = [os.path.join(beside, ".vit_jax")] * (not address) + ["~/.cache/vit_jax"]
    if cache_dir:
        folders = [cache_dir]
    places = [folder for folder in map(os.path.expanduser, folders) if not folder.startswith("~")]
    paths = [os.path.join(folder, f"{what}-{name}.npz") for folder in places]
    for path in paths:
        if (found := _read(path, digest)) is not None:
            return found
    made = make()
    if len(next(iter(made.values()))) >= (SMALL if least is None else least):
        _keep(what, beside, paths, dict(made, **{_KEY: np.array(digest)}))
    return made


def _read(path: str, digest: str) -> Table | None:
    """The table in a file; None if it is missing, damaged or has another key."""
    try:
        found = read_archive(path)
    except (OSError, *DAMAGED):
        return None
    if str(found.pop(_KEY, "")) != digest:
        return None
    return found


def _keep(what: str, beside: str, paths: list[str], made: Table) -> None:
    """Writes a table to the first writable path."""
    reasons = []
    for path in paths:
        try:
            _write(path, made)
            return
        except OSError as error:
            reasons.append(f"{os.path.dirname(path)}: {reason(error)}")
    log.warning(
        "the %s of %s cannot be kept and will be made again in the next run (%s); "
        "set data.cache_dir to a folder with room",
        what, beside, "; ".join(reasons),
    )  # fmt: skip


def _write(path: str, made: Table) -> None:
    """Writes the file atomically."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    columns: dict[str, Any] = dict(made)
    write_atomic(path, lambda file: np.savez(file, **columns))

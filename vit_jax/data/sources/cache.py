"""Lists and indices that are costly to make, kept from run to run.

A table (arrays by name) is kept beside the data, or in ~/.cache/vit_jax where that
cannot be written, or in the folder that `data.cache_dir` names. It holds the key it was
made for and is made again when that has changed.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.files import write_atomic
from vit_jax.text import reason

log = logging.getLogger(__name__)

Table = dict[str, np.ndarray]

SMALL = 10_000  # rows below which nothing is kept
_KEY = "key"


def table(
    what: str, beside: str, name: str, key: bytes, make: Callable[[], Table], cache_dir: str = ""
) -> Table:
    """The table that `make` makes, from a file if one holds it for the same key.

    Args:
      what: kind of table, part of the file's name and of messages.
      beside: the folder of the data, or its address.
      name: which of the tables of this kind beside the data.
      key: anything that changes whenever the table would.
      make: called if there is no such file.
      cache_dir: where to look and keep instead of beside the data and in the home folder.

    Returns:
      The table. Where it cannot be kept a warning says so, and the next run makes it again.
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
    if len(next(iter(made.values()))) >= SMALL:
        _keep(what, beside, paths, dict(made, **{_KEY: np.array(digest)}))
    return made


def _read(path: str, digest: str) -> Table | None:
    """The table in a file; None if there is none, or one of another key, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive[_KEY]) != digest:
                return None
            return {name: archive[name] for name in archive.files if name != _KEY}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(what: str, beside: str, paths: list[str], made: Table) -> None:
    """Writes a table to the first of the paths that can be written."""
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
    """Writes a file that is there in full or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    columns: dict[str, Any] = dict(made)
    write_atomic(path, lambda file: np.savez(file, **columns))

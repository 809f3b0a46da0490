"""The sizes of the files that a table names, which also tell whether they are there."""

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vit_jax.data.sources import cache
from vit_jax.data.sources.folder import Paths
from vit_jax.errors import InputError

_MISSING, _LEAVING = -1, -2
_AT_ONCE = 16
_CHUNK = 4096  # files
_VERSION = 1  # of lists in the cache


class FileSizes:
    """Sizes of files in bytes, kept (see `cache`) until a table or a folder of them changes.

    Attributes:
      sizes: int64 (n,); negative for files that cannot be read.
    """

    def __init__(self, paths: Paths, tables: Sequence[str], follow_links: bool, cache_dir: str):
        """Looks up the files.

        Args:
          paths: the files.
          tables: tables that name them.
          follow_links: whether files may lie outside `paths.root`, behind symbolic links.
          cache_dir: see `cache`.
        """
        self._paths, self._follow_links = paths, follow_links
        self._real = os.path.join(os.path.realpath(paths.root), b"")
        folders = {os.path.dirname(paths[i]) for i in range(len(paths))}
        self._inside = {folder: self._stays(folder) for folder in folders}
        changed = [(folder, _changed(folder)) for folder in sorted(folders)]
        tables_now = [(os.path.basename(table), _changed(os.fsencode(table))) for table in tables]
        key = repr((_VERSION, follow_links, tables_now, changed)).encode()
        beside = os.fsdecode(paths.root)
        found = cache.table("files", beside, " ".join(tables), key, self._look_up, cache_dir)
        self.sizes = found["sizes"]

    def check(self, rows: np.ndarray, describe: Callable[[int], str]) -> None:
        """Refuses files that are missing or lie elsewhere.

        Args:
          rows: numbers of the files that are needed.
          describe: function from a number to its place in the tables.

        Raises:
          InputError: names the first, and counts the others.
        """
        bad = np.flatnonzero(self.sizes[rows] < 0)
        if not len(bad):
            return
        row = int(rows[bad[0]])
        path = os.fsdecode(self._paths.name(row))
        more = f" ({len(bad):,} of {len(rows):,} files)" if len(bad) > 1 else ""
        if self.sizes[row] == _LEAVING:
            raise InputError(
                f"{describe(row)}: {path} is a link that leaves the table's folder{more}; "
                "data.follow_links=True reads it"
            )
        raise InputError(
            f"{describe(row)}: {path}: no such file{more}; paths begin at the table's folder; "
            "correct or remove such rows"
        )

    def _stays(self, folder: bytes) -> bool:
        """Whether the real place of a folder or file is within that of the root."""
        return os.path.join(os.path.realpath(folder), b"").startswith(self._real)

    def _look_up(self) -> cache.Table:
        count = len(self._paths)
        chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # each look-up may wait for a file server
            found = list(pool.map(lambda rows: [self._size(row) for row in rows], chunks))
        return dict(sizes=np.array([size for sizes in found for size in sizes], np.int64))

    def _size(self, row: int) -> int:
        path = self._paths[row]
        try:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):
                return _MISSING
            stays = self._inside[os.path.dirname(path)]
            if stays and os.path.islink(path):
                stays = self._stays(path)
        except OSError:
            return _MISSING
        return facts.st_size if stays or self._follow_links else _LEAVING


def _changed(path: bytes) -> tuple[int, int]:
    """Time of change in nanoseconds and size of a file or folder; (-1, -1) if it is missing."""
    try:
        facts = os.stat(path)
    except OSError:
        return -1, -1
    return facts.st_mtime_ns, facts.st_size

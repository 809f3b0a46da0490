"""Random access to the record files of tfds, on a disk or under an address such as gs://.

ArrayRecord files have an index of their records. For TFRecord files an index is made once, by
reading the length in front of each record, and cached (see `cache`). Remote files are read in
large blocks for it, because each request takes long.
"""

import contextlib
import functools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vit_jax.data.sources import cache
from vit_jax.errors import InputError

ReadAt = Callable[[int, int], bytes]  # (length, offset) -> bytes

BLOCK = 2**24  # bytes
_AT_ONCE = 16  # files or records read at a time


class TFRecordFile:
    """Random access to a TFRecord file: each record is its length in 8 bytes, a checksum
    in 4, the data, and a checksum in 4."""

    def __init__(self, path: str, bounds: np.ndarray | None = None):
        self.path = path
        self._bounds = record_bounds(path) if bounds is None else bounds

    def read(self, records: np.ndarray) -> list[bytes]:
        with reading(self.path) as read_at:
            if is_remote(self.path):
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    return list(pool.map(functools.partial(self._one, read_at), records))
            return [self._one(read_at, record) for record in records]

    def _one(self, read_at, record: int) -> bytes:
        if record + 1 >= len(self._bounds):
            raise InputError(
                f"{self.path} holds {len(self._bounds) - 1} records; dataset_info.json says more"
            )
        start, stop = (int(bound) for bound in self._bounds[record : record + 2])
        frame = read_at(stop - start, start)
        if len(frame) != stop - start or struct.unpack("<Q", frame[:8])[0] != stop - start - 16:
            raise InputError(f"{self.path}: record {record} is not where the index says; "
                             "the file has changed")  # fmt: skip
        return frame[12:-4]


def record_bounds(path: str) -> np.ndarray:
    """Offsets in bytes of the records of a TFRecord file and of its end: int64 (n + 1,).

    Raises:
      InputError: the last record is cut off.
    """
    size, bounds, position = facts(path)[0], [0], 0
    with reading(path) as read_at:
        if is_remote(path):
            read_at = by_blocks(read_at)
        while position < size:
            header = read_at(8, position)
            if len(header) == 8:
                position += 16 + struct.unpack("<Q", header)[0]
            if len(header) < 8 or position > size:
                raise InputError(f"{path}: truncated in record {len(bounds) - 1}")
            bounds.append(position)
    return np.array(bounds, np.int64)


def by_blocks(read_at: ReadAt) -> ReadAt:
    """Buffers a remote `read_at`, for reading forward in small pieces."""
    first, block = 0, b""

    def read(length: int, offset: int) -> bytes:
        nonlocal first, block
        if not first <= offset <= first + len(block) - length:
            first, block = offset, read_at(max(length, BLOCK), offset)
        return block[offset - first : offset - first + length]

    return read


def is_remote(path: str) -> bool:
    return "://" in path


@contextlib.contextmanager
def reading(path: str) -> Iterator[ReadAt]:
    """Opens a file and yields a function (length, offset) -> bytes."""
    if not is_remote(path):
        with open(path, "rb", buffering=0) as file:
            yield functools.partial(os.pread, file.fileno())
        return
    from vit_jax.data._tf import tf

    def read_at(length: int, offset: int) -> bytes:
        with (
            _remote(path),
            tf.io.gfile.GFile(path, "rb") as file,
        ):  # a file object per request, so that they run in parallel
            file.seek(offset)
            return file.read(length)

    yield read_at


def facts(path: str) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds of a file."""
    if not is_remote(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    from vit_jax.data._tf import tf

    with _remote(path):
        found = tf.io.gfile.stat(path)
    return found.length, found.mtime_nsec


@contextlib.contextmanager
def _remote(path: str) -> Iterator[None]:
    """Turns errors of TensorFlow's file systems into an InputError of one line."""
    from vit_jax.data._tf import tf

    try:
        yield
    except tf.errors.OpError as error:
        reason = str(error.message).strip().splitlines()[0]
        raise InputError(f"{path}: cannot be read: {reason}") from None


def indexed(paths: Sequence[str], cache_dir: str) -> dict[str, TFRecordFile]:
    """Opens the TFRecord files of one folder, with their cached index.

    Raises:
      InputError: a file is missing or truncated.
    """

    def made() -> cache.Table:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            bounds = list(pool.map(record_bounds, paths))
        return dict(bounds=np.concatenate(bounds), counts=np.array([len(b) for b in bounds]))

    try:
        key = repr([(os.path.basename(path), *facts(path)) for path in paths]).encode()
        names = " ".join(os.path.basename(path) for path in paths)
        found = cache.table("records", os.path.dirname(paths[0]), names, key, made, cache_dir)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    tables = np.split(found["bounds"], np.cumsum(found["counts"])[:-1])
    return {path: TFRecordFile(path, bounds) for path, bounds in zip(paths, tables)}


class ArrayRecordFile:
    """Random access to an ArrayRecord file."""

    def __init__(self, path: str):
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            raise InputError(f"{path} needs array_record: pip install array_record") from None
        self.path = path
        with self._named():
            self._reader = ArrayRecordReader(path)

    def read(self, records: np.ndarray) -> list[bytes]:
        with self._named():
            return self._reader.read([int(record) for record in records])

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turns errors of the reader into an InputError with the file's name."""
        try:
            yield
        except (RuntimeError, ValueError, IndexError) as error:
            raise InputError(
                f"{self.path}: cannot be read: {str(error).strip().splitlines()[0]}"
            ) from None

"""Parquet files with images: `parquet:data/train-*.parquet`.

A parquet file is cut into row groups, the smallest part that can be read. Reading one image
decodes its row group; decoded groups are kept up to `CACHE_BYTES`. The labels of all rows and
the rows of each group are read once and cached (see `cache`).
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vit_jax.data import order
from vit_jax.data.sources import cache
from vit_jax.data.sources.opening import Request
from vit_jax.data.sources.tables import classes, names
from vit_jax.data.sources.tables.columns import ColumnSource
from vit_jax.data.sources.tables.query import parse_known
from vit_jax.errors import InputError
from vit_jax.text import first_line, reason

try:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vit_jax.data.sources.tables import schema
except ImportError:
    raise InputError("parquet files need pyarrow: pip install pyarrow") from None

log = logging.getLogger(__name__)

CACHE_BYTES = 2**28  # of decoded row groups
MAX_GROUP_BYTES = 2**30  # of the images of one row group
_VERSION = 1  # of indices in the cache
_LOCKS = 16


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Turns errors of the reader into an InputError with the file's name."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        words = reason(error) if isinstance(error, OSError) and error.strerror else ""
        raise InputError(
            f"{path}: cannot be read as parquet ({words or first_line(error, 120)}); "
            "it may be truncated"
        ) from None


@dataclasses.dataclass(frozen=True)
class Index:
    """The rows of some files.

    Attributes:
      labels: labels of all rows.
      file, group: number of the file of each row group, and of the group in it: int32 (groups,).
      starts: first row of each group, and the number of rows: int64 (groups + 1,).
    """

    labels: classes.Column
    file: np.ndarray
    group: np.ndarray
    starts: np.ndarray

    def rows_of(self, file: int) -> np.ndarray:
        """The rows of a file: int64."""
        groups = np.flatnonzero(self.file == file)
        if not len(groups):
            return np.zeros(0, np.int64)
        return np.arange(self.starts[groups[0]], self.starts[groups[-1] + 1])


class ParquetImages:
    """The column of images of some files. May be read from several threads.

    Args:
      paths: the files.
      index: their rows.
      fields: their columns.
    """

    def __init__(self, paths: Sequence[str], index: Index, fields: "schema.Fields"):
        self._paths, self._index, self._fields = paths, index, fields
        self._metadata = functools.lru_cache(maxsize=1024)(_metadata)
        self._groups: collections.OrderedDict[int, pa.ChunkedArray] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._reading = [threading.Lock() for _ in range(_LOCKS)]

    def read(self, rows: np.ndarray) -> list[bytes]:
        groups = np.searchsorted(self._index.starts, rows, side="right") - 1
        found = [b""] * len(rows)
        for number in np.unique(groups):
            images = self._group(int(number))
            for place in np.flatnonzero(groups == number):
                value = images[int(rows[place] - self._index.starts[number])].as_py()
                found[place] = value or b""
        return found

    def describe(self, row: int) -> str:
        group = int(np.searchsorted(self._index.starts, row, side="right")) - 1
        file = int(self._index.file[group])
        first = np.flatnonzero(self._index.file == file)[0]
        return f"{self._paths[file]} row {row - int(self._index.starts[first])}"

    def _group(self, number: int) -> pa.ChunkedArray:
        """The images of a row group, decoded or kept."""
        with self._reading[number % _LOCKS]:  # two threads do not decode the same group
            with self._lock:
                if number in self._groups:
                    self._groups.move_to_end(number)
                    return self._groups[number]
            images = self._decode(number)
            with self._lock:
                self._groups[number] = images
                held = sum(group.nbytes for group in self._groups.values())
                while held > CACHE_BYTES and len(self._groups) > 1:
                    held -= self._groups.popitem(last=False)[1].nbytes
        return images

    def _decode(self, number: int) -> pa.ChunkedArray:
        path = self._paths[self._index.file[number]]
        column = f"{self._fields.image}.bytes" if self._fields.nested else self._fields.image
        with _named(path):
            with pq.ParquetFile(path, metadata=self._metadata(path)) as file:
                table = file.read_row_group(
                    int(self._index.group[number]), columns=[column], use_threads=False
                )
            images = schema.image_bytes(table.column(0), self._fields)
        expected = self._index.starts[number + 1] - self._index.starts[number]
        if len(images) != expected:
            raise InputError(f"{path} has changed since it was opened")
        return images


def _metadata(path: str) -> "pq.FileMetaData":
    return pq.read_metadata(path)


def _footer(path: str) -> bytes:
    """The end of a file, which describes all of its columns: sizes, statistics, schema."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        length = struct.unpack("<I", file.read(8).rjust(8)[:4])[0]
        file.seek(max(0, size - 8 - length))
        return file.read()


def open_parquet(argument: str, request: Request) -> ColumnSource:
    """Opens `parquet:FILES?image=COLUMN&label=COLUMN`; FILES may be a glob.

    Raises:
      InputError: a file that is missing, truncated or has other columns, an unknown option or
        split, or a label without a class.
    """
    pattern, options = parse_known("parquet", argument, ("image", "label"))
    return open_files(names.matching("parquet", pattern), options, request)


def open_files(paths: Sequence[str], options: Mapping[str, str], request: Request) -> ColumnSource:
    """Opens parquet files as one source; each belongs to the split that its name tells.

    Args:
      paths: the files.
      options: names of columns, "image" and "label".
      request: options of the source.

    Raises:
      InputError: as `open_parquet`.
    """
    fields, content = _inspected(paths, options)
    index = _indexed(paths, fields, content, request.cache_dir)
    images = ParquetImages(paths, index, fields)
    rows: dict[str, list[np.ndarray]] = {}
    for number, path in enumerate(paths):
        rows.setdefault(names.split_of(path), []).append(index.rows_of(number))
    chosen = classes.choose(
        index.labels,
        {part: np.concatenate(found) for part, found in rows.items()},
        request=request,
        describe=images.describe,
    )
    return ColumnSource.of(chosen, images, content, request)


def _inspected(paths: Sequence[str], options: Mapping[str, str]) -> tuple["schema.Fields", bytes]:
    """The columns of all files, which must agree, and a digest of names, sizes and footers."""
    first: schema.Fields | None = None
    digest = hashlib.blake2b(digest_size=16)
    rows = stored = groups = 0
    for path in paths:
        with _named(path):
            metadata = _metadata(path)
            found = schema.find_fields(path, metadata.schema.to_arrow_schema(), options)
            digest.update(f"{os.path.basename(path)}\0{os.path.getsize(path)}\0".encode())
            digest.update(_footer(path))
        first = first or found
        if found != first:
            raise InputError(
                f"{path} has other columns or classes than {paths[0]}: {found.image} and "
                f"{found.label}, not {first.image} and {first.label}"
                if (found.image, found.label) != (first.image, first.label)
                else f"{path} has images or classes of another type than {paths[0]}"
            )
        stored += _checked_groups(path, metadata, found.image)
        rows, groups = rows + metadata.num_rows, groups + metadata.num_row_groups
    assert first is not None  # there is at least one file
    if not rows:
        raise InputError(f"{paths[0]} has no rows")
    if rows >= order.MAX_SIZE:
        raise InputError(f"{paths[0]} claims {rows} rows, more than {order.MAX_SIZE}")
    if stored > CACHE_BYTES and rows > 4 * groups:
        log.warning(
            "%s: reading an image decodes its row group of %d images; groups of a few images "
            "(row_group_size) are read faster in a random order",
            paths[0], rows // groups,
        )  # fmt: skip
    return first, digest.digest()


def _checked_groups(path: str, metadata: "pq.FileMetaData", image: str) -> int:
    """The bytes of all images of a file; refuses a row group that would fill the memory."""
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = sum(
            column.total_uncompressed_size
            for column in map(group.column, range(group.num_columns))
            if column.path_in_schema.split(".")[0] == image
        )
        if size > MAX_GROUP_BYTES:
            raise InputError(
                f"{path}: row group {number} has {size / 2**30:.1f} GiB of images, which are "
                "decoded together; write it with a smaller row_group_size"
            )
        total += size
    return total


def _indexed(
    paths: Sequence[str], fields: "schema.Fields", content: bytes, cache_dir: str
) -> Index:
    """The index of some files, from the cache if they have not changed."""

    def made() -> cache.Table:
        columns: list[classes.Column] = []
        file: list[int] = []
        group: list[int] = []
        rows: list[int] = []
        for number, path in enumerate(paths):
            with _named(path), pq.ParquetFile(path) as opened:
                metadata = opened.metadata
                labels = opened.read(columns=[fields.label], use_threads=False).column(0)
                columns.append(schema.label_column(path, labels, fields))
                parts = range(metadata.num_row_groups)
                sizes = [metadata.row_group(part).num_rows for part in parts]
                if sum(sizes) != len(labels):
                    raise InputError(f"{path} claims {sum(sizes)} rows, has {len(labels)} labels")
                file += [number] * len(sizes)
                group += parts
                rows += sizes
        labels = schema.joined(columns)
        return dict(
            codes=labels.codes,
            values=np.frombuffer(json.dumps(labels.values).encode(), np.uint8),
            files=np.array(file, np.int32),
            groups=np.array(group, np.int32),
            rows=np.array(rows, np.int64),
        )

    changed = [os.stat(path).st_mtime_ns for path in paths]
    key = repr((_VERSION, content, changed, fields)).encode()
    stems = " ".join(map(os.path.basename, paths))
    found = cache.table("parquet", os.path.dirname(paths[0]) or ".", stems, key, made, cache_dir)
    values = [tuple(value) for value in json.loads(found["values"].tobytes())]
    return Index(
        classes.Column(found["codes"], values, fields.class_names),
        found["files"],
        found["groups"],
        np.concatenate([[0], np.cumsum(found["rows"])]),
    )

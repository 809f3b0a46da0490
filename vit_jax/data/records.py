"""Data sets prepared by tfds: ArrayRecord or TFRecord files.

ArrayRecord files know where each record starts. For TFRecord files an index of the starts
is made once, by reading the length in front of each record, and kept (see `cache`).

Where no index can be made, e.g. on storage that is slow at random access, the files are
read *sequentially*: each epoch takes the files in a new order and shuffles records within
a buffer. That order is a pure function of (seed, epoch) too, but every process reads all
records, and a run that resumes within an epoch first reads up to the place where it
stopped, without decoding.
"""

import contextlib
import dataclasses
import functools
import os
import re
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vit_jax.data import cache, splits
from vit_jax.data.source import Source
from vit_jax.errors import InputError, unknown

_REMOTE_READS = 16  # at once, from storage that is reached over a network


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of one file: records [skip, skip + take)."""

    path: str
    skip: int
    take: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSource(Source):
    """Serialized tf.train.Example records.

    Attributes:
      shards: where the examples are, in order.
      open_file: a file's path -> an object whose `read` takes record numbers.
      image_key, label_key: features of an example; a label is an int or a list of them.
      rule: computes the label instead, see `labels`.
      sequential: training reads from front to back.
    """

    shards: tuple[Shard, ...]
    open_file: Callable[[str], Any]
    image_key: str
    label_key: str
    rule: Any = None
    sequential: bool = False

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The index of each shard's first example, and the size."""
        return np.cumsum([0] + [shard.take for shard in self.shards])

    def _record(self, index):
        """Numbers of shards, and of records within their files."""
        shard = np.searchsorted(self.starts, index, side="right") - 1
        skips = np.array([found.skip for found in self.shards])
        return shard, index - self.starts[shard] + skips[shard]

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        shards, records = self._record(index)
        for number in np.unique(shards):
            rows = np.flatnonzero(shards == number)
            payloads[rows] = self.open_file(self.shards[number].path).read(records[rows])
        return payloads

    def labels(self, index: np.ndarray) -> None:
        return None

    def describe(self, index: int) -> str:
        shard, record = self._record(np.array([index]))
        return f"record {record[0]} of {self.shards[shard[0]].path}"

    def _identity(self):
        for shard in self.shards:
            size = _file_facts(shard.path)[0]
            yield repr((os.path.basename(shard.path), shard.skip, shard.take, size)).encode()


class TFRecordFile:
    """Random access to a TFRecord file: each record is its length in 8 bytes, a checksum
    in 4, the data, and a checksum in 4."""

    def __init__(self, path: str, bounds: np.ndarray | None = None):
        self.path = path
        self._bounds = record_bounds(path) if bounds is None else bounds

    def read(self, records: np.ndarray) -> list[bytes]:
        with _reading(self.path) as read_at:
            if _is_remote(self.path):
                with ThreadPoolExecutor(_REMOTE_READS) as pool:
                    return list(pool.map(functools.partial(self._one, read_at), records))
            return [self._one(read_at, record) for record in records]

    def _one(self, read_at, record: int) -> bytes:
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
    size, bounds, position = _file_facts(path)[0], [0], 0
    with _reading(path) as read_at:
        while position < size:
            header = read_at(8, position)
            if len(header) == 8:
                position += 16 + struct.unpack("<Q", header)[0]
            if len(header) < 8 or position > size:
                raise InputError(f"{path}: truncated in record {len(bounds) - 1}")
            bounds.append(position)
    return np.array(bounds, np.int64)


def _is_remote(path: str) -> bool:
    return "://" in path


@contextlib.contextmanager
def _reading(path: str) -> Iterator[Callable[[int, int], bytes]]:
    """Opens a file; gives (bytes, offset) -> what is there."""
    if not _is_remote(path):
        with open(path, "rb", buffering=0) as file:
            yield functools.partial(os.pread, file.fileno())
        return
    from vit_jax.data._tf import tf

    def read_at(length: int, offset: int) -> bytes:
        with tf.io.gfile.GFile(path, "rb") as file:  # one each: reads go on in parallel
            file.seek(offset)
            return file.read(length)

    yield read_at


def _file_facts(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change of a file."""
    if not _is_remote(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    from vit_jax.data._tf import tf

    found = tf.io.gfile.stat(path)
    return found.length, found.mtime_nsec


def _tfrecord_opener(paths: list[str], cache_dir: str) -> Callable[[str], TFRecordFile]:
    """Opens TFRecord files with the index of all of them, made once."""

    def made() -> cache.Table:
        with ThreadPoolExecutor(_REMOTE_READS) as pool:
            bounds = list(pool.map(record_bounds, paths))
        return dict(bounds=np.concatenate(bounds), counts=np.array([len(b) for b in bounds]))

    try:
        facts = [(os.path.basename(path), *_file_facts(path)) for path in paths]
        found = cache.table(
            "records", os.path.dirname(paths[0]), repr(facts).encode(), made, cache_dir
        )
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    tables = np.split(found["bounds"], np.cumsum(found["counts"])[:-1])
    files = {path: TFRecordFile(path, bounds) for path, bounds in zip(paths, tables)}
    return files.__getitem__


class ArrayRecordFile:
    """Random access to an ArrayRecord file."""

    def __init__(self, path: str):
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            raise InputError(f"{path} needs array_record: pip install array_record") from None
        self._reader = ArrayRecordReader(path)

    def read(self, records: np.ndarray) -> list[bytes]:
        return self._reader.read([int(record) for record in records])


def open_tfds(
    dataset: str,
    *,
    data_dir: str,
    cache_dir: str,
    sequential: bool,
    split: str,
    multi_label: bool,
    name: str,
) -> RecordSource:
    """Opens a prepared tfds data set, `NAME[/CONFIG][:VERSION][?label=...]` or its folder.

    Raises:
      InputError: tfds or the data set is not there, unknown split, no image or label.
    """
    from vit_jax.data import labels

    dataset, label, bins = labels.parse_query(dataset)
    builder = _builder(dataset, data_dir)
    shards = _split_shards(builder, split, name)
    image_key, label_key, label_names = _features(
        builder.info.features, multi_label, name, label=label
    )
    rule = None
    if label:
        rule = labels.find(builder.name, label, bins, _classes(builder.info.features))
        label_names = list(rule.names)
    shape = builder.info.features[image_key].shape
    return RecordSource(
        name=name,
        split=split,
        size=sum(shard.take for shard in shards),
        label_names=label_names,
        multi_label=multi_label,
        image_size=None if None in shape else shape[:2],
        shards=shards,
        open_file=_opener(builder.info.file_format.value, shards, cache_dir, sequential, name),
        image_key=image_key,
        label_key=label_key,
        rule=rule,
        sequential=sequential,
    )


def _opener(
    file_format: str, shards: tuple[Shard, ...], cache_dir: str, sequential: bool, name: str
) -> Callable[[str], Any]:
    """How files of a format are opened for reading at random."""
    if file_format not in ("tfrecord", "array_record"):
        raise InputError(f"{name} is stored as {file_format}; prepare it as array_record")
    if file_format == "array_record":
        if sequential:
            raise InputError(f"{name} is stored as array_record; set data.sequential=False")
        return functools.lru_cache(maxsize=None)(ArrayRecordFile)
    if sequential:
        return functools.lru_cache(maxsize=None)(TFRecordFile)
    return _tfrecord_opener(list(dict.fromkeys(shard.path for shard in shards)), cache_dir)


def _builder(dataset: str, data_dir: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(
            f"source tfds:{dataset} needs tensorflow-datasets: pip install tensorflow-datasets"
        ) from None
    where = os.path.expanduser(data_dir) or None
    try:
        if os.path.isfile(os.path.join(dataset, "dataset_info.json")):
            return tfds.builder_from_directory(dataset)
        # From the files alone: the code that once made them need not be there.
        return tfds.core.read_only_builder.builder_from_files(dataset, data_dir=where)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(f"tfds:{dataset}: {_line(error)}") from None
    name = re.split("[/:]", dataset)[0]
    if name not in (known := tfds.list_builders()):
        raise unknown("tfds data set", dataset, known)
    raise InputError(
        f"tfds:{dataset} is not prepared in {where or tfds.core.constants.DATA_DIR}; set "
        f"data.data_dir or run `tfds build {dataset} --file_format=array_record`"
    )


def _line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).strip().splitlines()[0]


def _split_shards(builder: Any, split: str, name: str) -> tuple[Shard, ...]:
    """The parts of files that tfds says a split is made of."""
    for part, _, _ in splits.parse(split):
        if part != "all" and part not in builder.info.splits:
            raise unknown(f"split of {name}", part, [*builder.info.splits, "all"])
    try:
        instructions = builder.info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(f"split {split!r} of {name}: {_line(error)}") from None
    shards = tuple(Shard(os.fspath(part.filename), part.skip, part.take) for part in instructions)
    if not shards:
        raise InputError(f"split {split!r} of {name} holds no examples")
    return shards


def _classes(features: Any) -> dict[str, list[str]]:
    """The features that hold a class, with the names of the classes."""
    from tensorflow_datasets import features as kinds

    return {
        key: list(feature.names)
        for key, feature in features.items()
        if isinstance(feature, kinds.ClassLabel)
    }


def _features(
    features: Any, multi_label: bool, name: str, *, label: str = ""
) -> tuple[str, str, list[str]]:
    """Names of the image and label features and of the classes; none if `label` is asked for."""
    from tensorflow_datasets import features as kinds

    def find(what: str, *types, also=lambda feature: True) -> str | None:
        matching = sorted(
            key for key, feature in features.items() if isinstance(feature, types) and also(feature)
        )
        return min(matching, key=lambda key: key not in (what, what + "s"), default=None)

    image_key = find("image", kinds.Image)
    if label and image_key:
        return image_key, "", []
    label_key = find("label", kinds.ClassLabel)
    if multi_label:
        sets = find(
            "label",
            kinds.Sequence,
            also=lambda feature: isinstance(feature.feature, kinds.ClassLabel),
        )
        label_key = sets or label_key
    if not image_key or not label_key:
        what = "label" if image_key else "image"
        raise InputError(f"{name} has no {what}; its features are {', '.join(sorted(features))}")
    feature = features[label_key]
    return image_key, label_key, list(getattr(feature, "feature", feature).names)

"""Data sets prepared by tfds, read at random: ArrayRecord or TFRecord files.

ArrayRecord files know where each record starts. For TFRecord files the starts are found
by reading the length in front of each record once.
"""

import dataclasses
import functools
import os
import re
import struct
from typing import Any

import numpy as np

from vit_jax.data.sources import Source
from vit_jax.errors import InputError, unknown


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
      file_format: "tfrecord" or "array_record".
      image_key, label_key: features of an example; a label is an int or a list of them.
    """

    shards: tuple[Shard, ...]
    file_format: str
    image_key: str
    label_key: str

    def fetch(self, index: np.ndarray) -> np.ndarray:
        shard = np.searchsorted(self._ends, index, side="right")
        payloads = np.empty(len(index), object)
        for number in np.unique(shard):
            rows = np.flatnonzero(shard == number)
            found = self.shards[number]
            records = index[rows] - (self._ends[number] - found.take) + found.skip
            payloads[rows] = self._file(found.path).read(records)
        return payloads

    def labels(self, index: np.ndarray) -> None:
        return None

    def describe(self, index: int) -> str:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        found = self.shards[shard]
        record = index - (self._ends[shard] - found.take) + found.skip
        return f"record {record} of {found.path}"

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([shard.take for shard in self.shards])

    @functools.cached_property
    def _file(self):
        opener = {"tfrecord": TFRecordFile, "array_record": ArrayRecordFile}[self.file_format]
        return functools.lru_cache(maxsize=None)(opener)


class TFRecordFile:
    """Random access to a TFRecord file through the starts of its records."""

    def __init__(self, path: str):
        self.path = path
        self.starts = record_starts(path)

    def read(self, records: np.ndarray) -> list[bytes]:
        with open(self.path, "rb", buffering=0) as file:
            return [self._read_one(file, int(self.starts[record])) for record in records]

    def _read_one(self, file, start: int) -> bytes:
        descriptor = file.fileno()
        (length,) = struct.unpack("<Q", os.pread(descriptor, 8, start))
        return os.pread(descriptor, length, start + 12)


def record_starts(path: str) -> np.ndarray:
    """Offsets in bytes of the records of a TFRecord file: int64 (n,).

    A record is its length (8 bytes), a checksum (4), the data, another checksum (4).

    Raises:
      InputError: the last record is cut off.
    """
    size, starts, position = os.path.getsize(path), [], 0
    with open(path, "rb", buffering=0) as file:
        descriptor = file.fileno()
        while position < size:
            starts.append(position)
            header = os.pread(descriptor, 8, position)
            if len(header) == 8:
                position += 16 + struct.unpack("<Q", header)[0]
            if len(header) < 8 or position > size:
                raise InputError(f"{path}: truncated in record {len(starts) - 1}")
    return np.array(starts, np.int64)


class ArrayRecordFile:
    """Random access to an ArrayRecord file."""

    def __init__(self, path: str):
        from array_record.python.array_record_module import ArrayRecordReader

        self._reader = ArrayRecordReader(path)

    def read(self, records: np.ndarray) -> list[bytes]:
        return self._reader.read([int(record) for record in records])


def open_tfds(
    dataset: str, *, data_dir: str, split: str, multi_label: bool, name: str
) -> RecordSource:
    """Opens a prepared tfds data set, `NAME[/CONFIG][:VERSION]` or its folder.

    Raises:
      InputError: tfds or the data set is not there, unknown split, no image or label.
    """
    builder = _builder(dataset, data_dir)
    files = _split_files(builder, split, name)
    image_key, label_key, label_names = _features(builder.info.features, multi_label, name)
    shape = builder.info.features[image_key].shape
    return RecordSource(
        name=name,
        split=split,
        size=sum(shard.take for shard in files),
        label_names=label_names,
        multi_label=multi_label,
        image_size=None if None in shape else shape[:2],
        shards=files,
        file_format=builder.info.file_format.value,
        image_key=image_key,
        label_key=label_key,
    )


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


def _split_files(builder: Any, split: str, name: str) -> tuple[Shard, ...]:
    """The parts of files that tfds says a split is made of."""
    from vit_jax.data import splits

    for part, _, _ in splits.parse(split):
        if part != "all" and part not in builder.info.splits:
            raise unknown(f"split of {name}", part, [*builder.info.splits, "all"])
    try:
        instructions = builder.info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(f"split {split!r} of {name}: {_line(error)}") from None
    files = tuple(Shard(os.fspath(part.filename), part.skip, part.take) for part in instructions)
    if not files:
        raise InputError(f"split {split!r} of {name} holds no examples")
    return files


def _features(features: Any, multi_label: bool, name: str) -> tuple[str, str, list[str]]:
    """Names of the image and label features and of the classes."""
    from tensorflow_datasets import features as kinds

    def find(what: str, *types, also=lambda feature: True) -> str | None:
        matching = sorted(
            key for key, feature in features.items() if isinstance(feature, types) and also(feature)
        )
        return min(matching, key=lambda key: key not in (what, what + "s"), default=None)

    image_key = find("image", kinds.Image)
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

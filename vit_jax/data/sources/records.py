"""Data sets prepared by tfds: ArrayRecord or TFRecord files.

Records are read at random (see `record_files`); TFRecord files need an index for that. On
storage with slow random access, they can be read *sequentially*: each epoch takes the files in
a new order and shuffles records within a buffer. That order is also a pure function of (seed,
epoch), but every process reads all records, and a run that resumes within an epoch first reads,
without decoding, up to the place where it stopped.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data.ops.op import Tensor
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.sources import record_files, splits
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError, unknown
from vit_jax.text import reason


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
      shards: parts of files that hold the examples, in order.
      open_file: function from a file's path to an object whose `read` takes record numbers.
      image_key, label_key: names of the features; a label is an int or a list of ints.
      rule: rule that computes the label instead, see `labels`; None: the feature itself.
    """

    shards: tuple[Shard, ...]
    open_file: Callable[[str], Any]
    image_key: str
    label_key: str
    rule: Any = None

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

    def encoded(self, index: int) -> bytes:
        from vit_jax.data._tf import tf

        record = tf.train.Example.FromString(self.fetch(np.array([index]))[0])
        return record.features.feature[self.image_key].bytes_list.value[0]

    def labels(self, index: np.ndarray) -> None:
        return None

    def example(self, preprocess: Preprocess, payload: Tensor, words: Tensor) -> dict[str, Tensor]:
        from vit_jax.data._tf import tf

        kinds = self.rule.features if self.rule else {self.label_key: tf.int64}
        keys = {name: tf.io.VarLenFeature(kind) for name, kind in kinds.items()}
        keys[self.image_key] = tf.io.FixedLenFeature([], tf.string)
        found = tf.io.parse_single_example(payload, keys)
        image = preprocess.encoded(found[self.image_key], words, self.max_pixels)
        if self.rule:
            label = self.rule(found)
            if self.multi_label:
                label = tf.one_hot(label, self.num_classes, dtype=tf.uint8)
            return dict(image=image, label=label)
        labels = found[self.label_key].values
        if self.multi_label:
            label = tf.reduce_max(tf.one_hot(labels, self.num_classes, dtype=tf.uint8), 0)
        else:
            label = tf.cast(tf.ensure_shape(labels, [1])[0], tf.int32)
        return dict(image=image, label=label)

    def file_names(self) -> list[str]:
        from vit_jax.data._tf import tf
        from vit_jax.data.listing import map_payloads

        keys = dict(file_name=tf.io.FixedLenFeature([], tf.string))
        names = map_payloads(self, lambda p: tf.io.parse_single_example(p, keys)["file_name"])
        return [os.path.basename(os.fsdecode(name)) for name in names]

    def describe(self, index: int) -> str:
        shard, record = self._record(np.array([index]))
        return f"record {record[0]} of {self.shards[shard[0]].path}"

    def shared(self, other: Source) -> int:
        if not isinstance(other, RecordSource):
            return 0
        return sum(
            max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip))
            for a in self.shards
            for b in other.shards
            if a.path == b.path
        )

    def _identity(self):
        for shard in self.shards:
            size = record_files.facts(shard.path)[0]
            yield repr((os.path.basename(shard.path), shard.skip, shard.take, size)).encode()


def open_tfds(
    dataset: str,
    *,
    data_dir: str,
    cache_dir: str,
    sequential: bool,
    split: str,
    multi_label: bool,
    max_pixels: int,
    name: str,
) -> RecordSource:
    """Opens a prepared tfds data set, `NAME[/CONFIG][:VERSION][?label=...]` or its folder.

    Raises:
      InputError: tfds or the data set is missing, an unknown split, or no image or label.
    """
    from vit_jax.data.sources import labels

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
    _check_claims(shards)
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
        max_pixels=max_pixels,
    )


def _check_claims(shards: tuple[Shard, ...]) -> None:
    """Refuses numbers of records that the files cannot hold, before lists are made of them."""
    for shard in shards:
        if record_files.is_remote(shard.path):
            continue  # a request per file would take long
        try:
            size = record_files.facts(shard.path)[0]
        except OSError as error:
            raise InputError(f"{shard.path}: cannot be read: {reason(error)}") from None
        if shard.skip + shard.take > size:  # a record takes more than a byte
            raise InputError(
                f"{shard.path} has {size} bytes; dataset_info.json claims "
                f"{shard.skip + shard.take} records"
            )


def _opener(
    file_format: str, shards: tuple[Shard, ...], cache_dir: str, sequential: bool, name: str
) -> Callable[[str], Any]:
    """A function that opens a file of the given format for random access."""
    if file_format not in ("tfrecord", "array_record"):
        raise InputError(f"{name} is stored as {file_format}; prepare it as array_record")
    if file_format == "array_record":
        if sequential:
            raise InputError(f"{name} is stored as array_record; set data.sequential=False")
        return functools.lru_cache(maxsize=None)(record_files.ArrayRecordFile)
    if sequential:
        return functools.lru_cache(maxsize=None)(record_files.TFRecordFile)
    paths = list(dict.fromkeys(shard.path for shard in shards))
    return record_files.indexed(paths, cache_dir).__getitem__


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
        # Needs the files only, not the code that made them.
        return tfds.core.read_only_builder.builder_from_files(dataset, data_dir=where)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        raise InputError(f"tfds:{dataset}: {_line(error)}") from None
    name = re.split("[/:]", dataset)[0]
    known = tfds.list_builders(with_community_datasets=False)  # that list would be downloaded
    if name not in known:
        raise unknown("tfds data set", dataset, known)
    raise InputError(
        f"tfds:{dataset} is not prepared in {where or tfds.core.constants.DATA_DIR}; set "
        f"data.data_dir or run `tfds build {dataset} --file_format=array_record`"
    )


def _line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).strip().splitlines()[0]


def _split_shards(builder: Any, split: str, name: str) -> tuple[Shard, ...]:
    """The parts of files that make up a split, from tfds."""
    for part, _, _ in splits.parse(split):
        if part != "all" and part not in builder.info.splits:
            raise splits.no_split(name, part, builder.info.splits)
    try:
        instructions = builder.info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise InputError(f"split {split!r} of {name}: {_line(error)}") from None
    shards = tuple(Shard(os.fspath(part.filename), part.skip, part.take) for part in instructions)
    inside = os.path.join(os.path.normpath(builder.data_dir), "")
    for shard in shards:
        if not os.path.normpath(shard.path).startswith(inside):
            raise InputError(f"{name}: dataset_info.json names {shard.path}, outside its folder")
    if not shards:
        raise InputError(f"split {split!r} of {name} holds no examples")
    return shards


def _classes(features: Any) -> dict[str, list[str]]:
    """The features with classes, and their class names."""
    from tensorflow_datasets import features as kinds

    return {
        key: list(feature.names)
        for key, feature in features.items()
        if isinstance(feature, kinds.ClassLabel)
    }


def _features(
    features: Any, multi_label: bool, name: str, *, label: str = ""
) -> tuple[str, str, list[str]]:
    """Names of the image feature, the label feature and the classes; "", [] with `label`."""
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

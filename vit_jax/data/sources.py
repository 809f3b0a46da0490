"""Sources of labelled images: what there is, where it lies, how one example is fetched.

A source knows its size, its classes and how to hand out *payloads*, byte strings that
the pipeline turns into images: file paths, serialized records, or raw pixels. Sources
that hold all pixels in memory (`ArraySource`) are also read without TensorFlow.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data import arrays, order, splits
from vit_jax.errors import InputError, unknown

KINDS = ("digits", "idx", "npz", "folder", "tfds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled images of one split.

    Attributes:
      name: as written in the config.
      split: as written in the config.
      size: number of examples.
      label_names: one name a class.
      multi_label: labels are sets of classes.
      image_size: (height, width) in pixels if all images are known to share it.
    """

    name: str
    split: str
    size: int
    label_names: Sequence[str]
    multi_label: bool = False
    image_size: tuple[int, int] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    def order(
        self, positions: np.ndarray, *, seed: int, shuffle: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The (epoch, index) at positions of the endless stream of training examples."""
        return order.examples(positions, seed=seed, size=self.size, shuffle=shuffle)

    def fetch(self, index: np.ndarray) -> np.ndarray:
        """Payloads of examples: an object array (b,) of bytes."""
        raise NotImplementedError

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """int32 (b,), or uint8 (b, classes) if multi-label; None: they are in the payload."""
        raise NotImplementedError

    def describe(self, index: int) -> str:
        """Where an example comes from, for messages."""
        return f"example {index} of {self.name} ({self.split})"

    def _encode(self, labels: np.ndarray) -> np.ndarray:
        """Stored labels in the form that batches hold."""
        if labels.ndim == 1 and self.multi_label:
            return np.eye(self.num_classes, dtype=np.uint8)[labels]
        return labels.astype(np.uint8 if self.multi_label else np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArraySource(Source):
    """Images in memory.

    Attributes:
      images: uint8 (size, h, w, channels), 1 or 3 channels.
      targets: int (size,) classes or uint8 (size, classes).
    """

    images: np.ndarray
    targets: np.ndarray

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = [self.images[i].tobytes() for i in index]
        return payloads

    def labels(self, index: np.ndarray) -> np.ndarray:
        return self._encode(self.targets[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """Image files with one class each.

    Attributes:
      files: their paths.
      targets: int (size,) classes.
    """

    files: Sequence[bytes]
    targets: np.ndarray

    @classmethod
    def of_paths(cls, paths: Sequence[str]) -> "FileSource":
        """Files without labels."""
        return cls(
            name="files",
            split="all",
            size=len(paths),
            label_names=[],
            files=[os.fsencode(path) for path in paths],
            targets=np.zeros(len(paths), np.int32),
        )

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = [self.files[i] for i in index]
        return payloads

    def labels(self, index: np.ndarray) -> np.ndarray:
        return self._encode(self.targets[index])

    def describe(self, index: int) -> str:
        return os.fsdecode(self.files[index])


def open_source(spec: str, split: str, *, data_dir: str = "", multi_label: bool = False) -> Source:
    """Opens a data source.

    Args:
      spec: "digits", "idx:DIR", "npz:FILE", "folder:DIR" or "tfds:NAME".
      split: in tfds syntax, e.g. "train[:80%]"; see `splits.select` for how slices are cut.
      data_dir: where tfds looks; "" for its default.
      multi_label: labels are sets of classes.

    Raises:
      InputError: unknown kind, split or data set, something missing or unreadable, more
        than 2**31 examples.
    """
    kind, _, argument = spec.partition(":")
    if kind not in KINDS:
        raise unknown("data source", spec, KINDS)
    if (kind != "digits") != bool(argument):
        form = "digits" if kind == "digits" else f"{kind}:" + _ARGUMENT[kind]
        raise InputError(f"bad data source {spec!r}; write {form}")
    common = dict(name=spec, split=split, multi_label=multi_label)
    if kind == "folder":
        from vit_jax.data import folder

        source = _open_folder(folder.scan(os.path.expanduser(argument)), common)
    elif kind == "tfds":
        from vit_jax.data import records

        source = records.open_tfds(argument, data_dir=data_dir, **common)
    else:
        source = _open_arrays(arrays.LOADERS[kind](os.path.expanduser(argument)), common)
    if source.size >= order.MAX_SIZE:
        raise InputError(f"{spec} has {source.size} examples, more than {order.MAX_SIZE}")
    return source


_ARGUMENT = dict(idx="DIR", npz="FILE", folder="DIR", tfds="NAME")


def _open_arrays(data: arrays.Arrays, common: dict) -> ArraySource:
    """The selected rows of loaded arrays."""
    sizes = {name: len(images) for name, (images, _) in data.splits.items()}
    parts = splits.select(common["split"], sizes, lambda part: data.splits[part][1], common["name"])
    images = _join([data.splits[part][0] for part, _ in parts], [rows for _, rows in parts])
    targets = _join([data.splits[part][1] for part, _ in parts], [rows for _, rows in parts])
    _check_labels(targets, common)
    return ArraySource(
        images=images,
        targets=targets,
        size=len(images),
        label_names=data.label_names,
        image_size=images.shape[1:3],
        **common,
    )


def _join(tables: list[np.ndarray], rows: list[np.ndarray]) -> np.ndarray:
    """Rows of several arrays as one; no copy where that is a whole array."""
    if len(tables) == 1 and len(rows[0]) == len(tables[0]):
        return tables[0]
    return np.concatenate([table[row] for table, row in zip(tables, rows)])


def _check_labels(targets: np.ndarray, common: dict) -> None:
    if targets.ndim > 1 and not common["multi_label"]:
        raise InputError(
            f"{common['name']} holds sets of classes; set data.multi_label=True "
            "(and loss.name='sigmoid')"
        )


def _open_folder(data: Any, common: dict) -> FileSource:
    """The selected files of a scanned folder."""
    sizes = {name: len(listing.targets) for name, listing in data.splits.items()}
    parts = splits.select(
        common["split"], sizes, lambda part: data.splits[part].targets, common["name"]
    )
    chosen = [data.splits[part].take(rows) for part, rows in parts]
    listing = chosen[0] if len(chosen) == 1 else chosen[0].join(chosen[1:])
    return FileSource(
        files=listing.paths,
        targets=listing.targets,
        size=len(listing.targets),
        label_names=data.label_names,
        **common,
    )

"""The interface of sources of labelled images.

A source has a size, class names, and a method that returns *payloads*: byte strings that the
pipeline turns into images, such as file paths, serialized records, or raw pixels. Sources that
hold all pixels in memory (`ArraySource`) are also read without TensorFlow.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from vit_jax.data import order
from vit_jax.data.balance import Balance
from vit_jax.data.ops.image_files import HEAD_BYTES, MAX_PIXELS
from vit_jax.data.ops.op import Tensor
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled images of one split.

    Attributes:
      name: text of data.source in the config.
      split: split in tfds syntax.
      size: number of examples.
      label_names: class names by number.
      multi_label: whether labels are sets of classes.
      image_size: (height, width) in pixels if all images are known to share it.
      sequential: whether training reads it from front to back instead of at random.
      max_pixels: largest number of pixels of an image file; larger ones are unreadable.
      rows: number of each example among those of all splits, int (size,); None if unknown.
      balance: how often training draws each class; None: each example once an epoch.
    """

    name: str
    split: str
    size: int
    label_names: Sequence[str]
    multi_label: bool = False
    image_size: tuple[int, int] | None = None
    sequential: bool = False
    max_pixels: int = MAX_PIXELS
    rows: np.ndarray | None = None
    balance: Balance | None = None

    @property
    def num_classes(self) -> int:
        return len(self.label_names)

    def order(
        self, positions: np.ndarray, *, seed: int, shuffle: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The (epoch, index) at positions of the endless stream of training examples."""
        if self.balance is not None:
            return self.balance.examples(positions, seed=seed)
        return order.examples(positions, seed=seed, size=self.size, shuffle=shuffle)

    def fetch(self, index: np.ndarray) -> np.ndarray:
        """Payloads of examples: an object array (b,) of bytes."""
        raise NotImplementedError

    def encoded(self, index: int) -> bytes:
        """The bytes of one example's image as they are stored, without its label.

        Raises:
          InputError, OSError: they cannot be read.
        """
        return self.fetch(np.array([index]))[0]

    def stored_bytes(self, index: int) -> int:
        """Size of one stored example in bytes."""
        return len(self.fetch(np.array([index]))[0])

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """int32 (b,), or uint8 (b, classes) if multi-label; None: they are in the payload."""
        raise NotImplementedError

    def class_counts(self) -> np.ndarray:
        """The number of examples of each class: int (classes,).

        Raises:
          InputError: labels are not known without reading the examples, or are sets of classes.
        """
        labels = None if self.multi_label else self.labels(np.arange(self.size))
        if labels is None:
            raise InputError(
                f"{self.name} ({self.split}) does not tell the classes of its images before they "
                "are read; class weights need image files in folders or arrays"
            )
        return np.bincount(labels, minlength=self.num_classes)

    def example(self, preprocess: Preprocess, payload: Tensor, words: Tensor) -> dict[str, Tensor]:
        """One example in a TensorFlow graph; by default the payload is an image file's bytes.

        Args:
          preprocess: preprocessing of the image.
          payload: string scalar, from `fetch`.
          words: random words, uint32 (num_random or more, 2).

        Returns:
          {"image": uint8 (h, w, 3)}, and "label" if the payload holds it.
        """
        return dict(image=preprocess.encoded(payload, words, self.max_pixels))

    def shared(self, other: "Source") -> int:
        """The number of examples of `other` that are also examples of this source, if known."""
        if self.rows is None or other.rows is None or self.name != other.name:
            return 0
        return int(np.isin(other.rows, self.rows, kind="table").sum())

    def file_names(self) -> list[str]:
        """The name of each example's file, without its folder.

        Raises:
          InputError: the source has no file names.
        """
        raise InputError(f"{self.name} has no names of image files")

    def head(self, index: int) -> bytes:
        """The first bytes of an image file, to name its format; b"" if there is no file."""
        return b""

    def describe(self, index: int) -> str:
        """The origin of an example, for messages."""
        return f"example {index} of {self.name} ({self.split})"

    def fingerprint(self) -> dict[str, int | str]:
        """Size and digest of the source's content, to notice changes between runs.

        The digest covers pixels (in memory), names and sizes (files), or names and numbers
        of records (tfds), and the labels if they are known without reading.
        """
        digest = hashlib.blake2b(digest_size=16)
        for part in self._identity():
            digest.update(part if isinstance(part, bytes) else part.data)
        return dict(size=self.size, digest=digest.hexdigest())

    def _identity(self) -> Iterable[bytes | np.ndarray]:
        """The bytes that `fingerprint` digests."""
        raise NotImplementedError

    def _encode(self, labels: np.ndarray) -> np.ndarray:
        """Stored labels in the form of batches: int32 (b,) or uint8 (b, classes)."""
        if labels.ndim == 1 and self.multi_label:
            return np.eye(self.num_classes, dtype=np.uint8)[labels]
        return labels.astype(np.uint8 if self.multi_label else np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArraySource(Source):
    """Images in memory.

    Attributes:
      images: uint8 (size, h, w, channels) with 1 or 3 channels.
      targets: classes, int (size,), or sets of classes, uint8 (size, classes).
    """

    images: np.ndarray
    targets: np.ndarray

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = [self.images[i].tobytes() for i in index]
        return payloads

    def labels(self, index: np.ndarray) -> np.ndarray:
        return self._encode(self.targets[index])

    def example(self, preprocess: Preprocess, payload: Tensor, words: Tensor) -> dict[str, Tensor]:
        from vit_jax.data._tf import tf

        image = tf.reshape(tf.io.decode_raw(payload, tf.uint8), self.images.shape[1:])
        return dict(image=preprocess.pixels(image, words))

    def _identity(self):
        return np.ascontiguousarray(self.images), np.ascontiguousarray(self.targets)


class FileNames(Protocol):
    """A sequence of paths, such as a list or the compact `folder.Paths`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> bytes: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """Image files with one class each.

    Attributes:
      files: paths, absolute or relative to the working directory.
      targets: classes, int (size,).
      file_sizes: sizes in bytes when the files were listed, int64 (size,).
    """

    files: FileNames
    targets: np.ndarray
    file_sizes: np.ndarray

    @classmethod
    def of_paths(cls, paths: Sequence[str], max_pixels: int = MAX_PIXELS) -> "FileSource":
        """Files without labels."""
        return cls(
            name="files",
            split="all",
            size=len(paths),
            label_names=[],
            files=[os.fsencode(path) for path in paths],
            targets=np.zeros(len(paths), np.int32),
            file_sizes=np.zeros(len(paths), np.int64),
            max_pixels=max_pixels,
        )

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = [self.files[i] for i in index]
        return payloads

    def encoded(self, index: int) -> bytes:
        with open(self.files[index], "rb") as file:
            return file.read()

    def file_bytes(self, index: int) -> bytes:
        """The bytes of an image file, wherever it is.

        Raises:
          InputError, OSError: it cannot be read.
        """
        return self.encoded(index)

    def stored_bytes(self, index: int) -> int:
        return int(self.file_sizes[index])

    def labels(self, index: np.ndarray) -> np.ndarray:
        return self._encode(self.targets[index])

    def example(self, preprocess: Preprocess, payload: Tensor, words: Tensor) -> dict[str, Tensor]:
        from vit_jax.data._tf import tf

        return dict(image=preprocess.encoded(tf.io.read_file(payload), words, self.max_pixels))

    def file_names(self) -> list[str]:
        return [os.fsdecode(os.path.basename(path)) for path in self.files]

    def head(self, index: int) -> bytes:
        with open(self.files[index], "rb") as file:
            return file.read(HEAD_BYTES)

    def describe(self, index: int) -> str:
        return os.fsdecode(self.files[index])

    def _identity(self):
        yield from (os.path.basename(self.files[i]) for i in range(self.size))
        yield self.file_sizes
        yield self.targets


def check_unchanged(source: Source, recorded: dict[str, int | str], since: str) -> None:
    """Compares a source with the fingerprint it had before.

    Args:
      source: source in its present state.
      recorded: earlier result of its `fingerprint`.
      since: time of that fingerprint for the message, e.g. "the run in WORKDIR began".

    Raises:
      InputError: its size or content has changed.
    """
    now = source.fingerprint()
    if now == recorded:
        return
    had = recorded.get("size")
    change = f"has {source.size} examples, had {had}" if had != source.size else "has changed"
    raise InputError(
        f"{source.name} ({source.split}) {change} since {since}; restore it or begin a new run"
    )

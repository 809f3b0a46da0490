"""Finds what is wrong with images before a run: damaged files, duplicates, tiny classes."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from vit_jax.data.inspect import single_reader, unreadable
from vit_jax.data.listing import read_labels
from vit_jax.data.sources.source import ArraySource, Source
from vit_jax.errors import InputError
from vit_jax.text import reason

CHEAP_BYTES = 2**31  # of a source whose images are all read without `every`
_CHUNK = 32  # images read by one task
_NAMED = 20  # unreadable images whose messages are kept


Progress = Callable[[int, int], None]  # (images read, of all)


@dataclasses.dataclass(frozen=True)
class Content:
    """What the images of a source hold.

    Attributes:
      source: the source.
      digests: hash of each image's stored bytes, uint64 (size,); 0 where there are none.
      sizes: height and width of each image in pixels, int32 (size, 2); 0 where it is unreadable;
        None if images were not decoded.
      unreadable: number of images that cannot be read or decoded.
      problems: messages about the first of them.
    """

    source: Source
    digests: np.ndarray
    sizes: np.ndarray | None
    unreadable: int
    problems: list[str]


def read_content(
    source: Source,
    *,
    decode: bool,
    threads: int = 0,
    on_progress: Progress = lambda done, of: None,
) -> Content:
    """Reads all images of a source once, in parallel.

    Memory: 8 bytes per image (16 with `decode`) and a few images per thread.

    Args:
      source: images to read.
      decode: whether to decode each image; otherwise only its bytes are read.
      threads: number of threads; 0: one per core.
      on_progress: called with the number of images read, and that of all.
    """
    digests = np.zeros(source.size, np.uint64)
    decode = decode and not isinstance(source, ArraySource)  # whose pixels are decoded
    sizes = np.zeros((source.size, 2), np.int32) if decode else None
    size_of = _size_reader(source) if decode else None
    unreadable = 0
    problems: list[str] = []

    def read(start: int) -> list[str]:
        found = []
        for index in range(start, min(start + _CHUNK, source.size)):
            try:
                if encoded := source.encoded(index):
                    digests[index] = digest(encoded)
                if size_of is not None and sizes is not None:
                    sizes[index] = size_of(index)
            except OSError as error:
                found.append(f"{source.describe(index)}: {reason(error)}")
            except InputError as error:
                found.append(str(error))
        return found

    threads = threads or len(os.sched_getaffinity(0))
    for start, found in _in_threads(read, range(0, source.size, _CHUNK), threads):
        unreadable += len(found)
        problems += found[: max(0, _NAMED - len(problems))]
        on_progress(min(start + _CHUNK, source.size), source.size)
    return Content(source, digests, sizes, unreadable, problems)


def digest(encoded: bytes) -> int:
    """A hash of 64 bits: two of a million different images share it once in 37 million cases."""
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _size_reader(source: Source) -> Callable[[int], tuple[int, int]]:
    """A function from an example's number to the size of its decoded image."""
    read = single_reader(source)
    words = np.zeros((0, 2), np.uint32)
    return lambda index: read(index, words)["image"].shape[:2]


def _in_threads(
    task: Callable[[int], list[str]], starts: range, threads: int
) -> Iterator[tuple[int, list[str]]]:
    """(start, task(start)) in order; a few tasks wait at a time."""
    pending: collections.deque[tuple[int, Future]] = collections.deque()
    with ThreadPoolExecutor(threads, "vit_jax-check") as pool:
        try:
            for start in starts:
                pending.append((start, pool.submit(task, start)))
                if len(pending) > 4 * threads:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def duplicates(content: Content) -> dict[str, Any]:
    """Images with the same bytes as an earlier one.

    Returns:
      {} if there are none, else {"images": number of repetitions, "first": [origins of two],
      "other_labels": number of repetitions whose label differs, where labels are known}.
    """
    known = np.flatnonzero(content.digests)
    values, first, inverse = np.unique(
        content.digests[known], return_index=True, return_inverse=True
    )
    earlier = known[first[inverse]]
    repeated = np.flatnonzero(earlier != known)
    if not len(repeated):
        return {}
    rows, originals = known[repeated], earlier[repeated]
    source = content.source
    pair = [source.describe(int(originals[0])), source.describe(int(rows[0]))]
    found: dict[str, Any] = dict(images=len(rows), first=pair)
    labels, other = source.labels(rows), source.labels(originals)
    if labels is not None and other is not None:
        differ = (labels != other).reshape(len(rows), -1).any(1)
        found["other_labels"] = int(differ.sum())
    return found


def shared(content: Content, training: Content) -> dict[str, Any]:
    """Images with the same bytes as a training image.

    Returns:
      {} if there are none, else {"images": their number, "first": [origins of both]}.
    """
    order = np.argsort(training.digests, kind="stable")
    place = np.searchsorted(training.digests[order], content.digests)
    place = order[np.minimum(place, len(order) - 1)]
    rows = np.flatnonzero((training.digests[place] == content.digests) & (content.digests != 0))
    if not len(rows):
        return {}
    row = int(rows[0])
    pair = [training.source.describe(int(place[row])), content.source.describe(row)]
    return dict(images=len(rows), first=pair)


def image_sizes(content: Content) -> dict[str, list[int]]:
    """Smallest, median and largest [height, width] by area; {} if no image was decoded."""
    if content.sizes is None:
        return {}
    sizes = content.sizes[content.sizes[:, 0] > 0]
    if not len(sizes):
        return {}
    order = np.argsort(sizes.astype(np.int64).prod(1), kind="stable")
    places = dict(smallest=0, median=len(order) // 2, largest=-1)
    return {name: sizes[order[place]].tolist() for name, place in places.items()}


def small_classes(source: Source, labels: np.ndarray) -> dict[str, list[str]]:
    """Classes with one image or none.

    Args:
      source: source of the images.
      labels: labels of all of them, int (size,) or sets of classes (size, classes).

    Returns:
      {"one": names, "none": names}, without what is empty.
    """
    one_hot = labels.ndim > 1
    counts = labels.sum(0) if one_hot else np.bincount(labels, minlength=source.num_classes)
    found = {
        name: [source.label_names[int(i)] for i in np.flatnonzero(counts == count)]
        for name, count in (("one", 1), ("none", 0))
    }
    return {name: names for name, names in found.items() if names}


class Faults:
    """What is wrong with the images of a config; each split is read once."""

    def __init__(
        self,
        training: Source,
        *,
        bytes_per_example: float,
        every: bool,
        threads: int = 0,
        progress: Callable[[str], Progress] = lambda what: lambda done, of: None,
    ):
        """Reads nothing yet.

        Args:
          training: training data.
          bytes_per_example: mean size of a stored image in bytes.
          every: whether to decode all images; otherwise their bytes are compared if that takes
            seconds, and none is decoded.
          threads: number of threads; 0: one per core.
          progress: function from the name of a split to a function called while it is read.
        """
        self._training, self._every, self._threads = training, every, threads
        self._bytes, self._progress = bytes_per_example, progress
        self._contents: dict[tuple[str, str], Content] = {}

    def of_training(self) -> dict[str, Any]:
        """Faults of the training data by name, without those that there are not.

        Returns:
          {"classes_with_one_image", "classes_without_images": {"classes", "first"},
          "duplicates": see `duplicates`, "unreadable": {"images", "of", "first"
          and "others", messages},
          "image_sizes": see `image_sizes`}.
        """
        return self._of(self._training, evaluation=False)

    def of_evaluation(self, source: Source) -> dict[str, Any]:
        """As `of_training`, and "same_as_training": see `shared`. Classes may be missing."""
        return self._of(source, evaluation=True)

    def _of(self, source: Source, *, evaluation: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        known = source.labels(np.arange(source.size))
        labels = read_labels(source) if known is None and self._every else known
        classes = {} if labels is None else small_classes(source, labels)
        for number, key in (("one", "with_one_image"), ("none", "without_images")):
            if number in classes and not (evaluation and number == "none"):
                names = classes[number]
                found[f"classes_{key}"] = dict(classes=len(names), first=names[:10])
        needed = [source, self._training] if evaluation else [source]
        if not self._every and sum(part.size for part in needed) * self._bytes > CHEAP_BYTES:
            return dict(found, duplicates="not looked for; --check reads all images")
        content = self._content(source)
        if repeated := duplicates(content):
            found["duplicates"] = repeated
        if evaluation and (same := shared(content, self._content(self._training))):
            found["same_as_training"] = same
        if content.unreadable:
            problems = content.problems
            found["unreadable"] = dict(images=content.unreadable, of=source.size, first=problems[0])
            if problems[1:]:
                found["unreadable"]["others"] = problems[1:]
        if evaluation and not self._every:
            found |= unreadable(source)
        if sizes := image_sizes(content):
            found["image_sizes"] = sizes
        return found

    def _content(self, source: Source) -> Content:
        key = (source.name, source.split)
        if key not in self._contents:
            self._contents[key] = read_content(
                source,
                decode=self._every,
                threads=self._threads,
                on_progress=self._progress(f"{source.name} ({source.split})"),
            )
        return self._contents[key]

"""Summaries of the data of a config: sizes, classes, augmented examples, reading speed."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax.data import order
from vit_jax.data.batches import plain
from vit_jax.data.ops.preprocess import Preprocess, parse
from vit_jax.data.pipeline import train_batches
from vit_jax.data.sources.source import FileSource, Source
from vit_jax.errors import InputError
from vit_jax.text import reason

_CELL = 128  # pixels of a picture in the contact sheet
_CAPTION = 16


def sizes(source: Source) -> dict[str, Any]:
    """Name, split, number of examples and of classes of a source; reads no image."""
    return dict(
        source=source.name, split=source.split, examples=source.size, classes=source.num_classes
    )


def single_reader(source: Source) -> Callable[[int, np.ndarray], dict[str, Any]]:
    """Reads examples as they are stored; image files without TensorFlow's messages about them."""
    preprocess = parse("decode")
    if isinstance(source, FileSource):
        return plain.reader(source, preprocess, source.file_bytes)
    from vit_jax.data.batches import graph

    return graph.reader(source, preprocess)


def describe(source: Source, preprocess: Preprocess, *, samples: int = 100) -> dict[str, Any]:
    """Summarises a source; image sizes and bytes come from a few examples spread over it.

    Returns:
      {"source", "split", "examples", "classes", "label_names" (the first ten),
      "decoded": number of images tried,
      "examples_per_class": [least, most] and "class_examples": class -> number, where labels
      are known without reading,
      "image_sizes": {"smallest", "median", "largest": [height, width]},
      "bytes_per_example", "preprocessing", "image_size"}, and "unreadable": {"of", "images",
      "first"} if some of the images tried are.

    Raises:
      InputError: none of the images tried can be read.
    """
    index, examples, problems = _sampled(source, samples)
    if not examples:
        raise InputError(f"none of {len(index)} images of {source.name} is readable: {problems[0]}")
    shapes = sorted((example["image"].shape[:2] for example in examples), key=np.prod)
    labels = source.labels(np.arange(source.size))
    summary = dict(
        **sizes(source),
        label_names=list(source.label_names[:10]),
        image_sizes=dict(
            smallest=list(shapes[0]),
            median=list(shapes[len(shapes) // 2]),
            largest=list(shapes[-1]),
        ),
        decoded=len(index),
        bytes_per_example=round(float(np.mean([source.stored_bytes(i) for i in index]))),
        preprocessing=str(preprocess),
        image_size=preprocess.output_size(source.image_size),
    )
    summary |= _unreadable(problems, index)
    if labels is not None:
        one_hot = labels.ndim > 1
        counts = labels.sum(0) if one_hot else np.bincount(labels, minlength=source.num_classes)
        summary["examples_per_class"] = [int(counts.min()), int(counts.max())]
        summary["class_examples"] = dict(zip(source.label_names, counts.tolist()))
    return summary


def unreadable(source: Source, *, samples: int = 100) -> dict[str, Any]:
    """What of a few examples spread over a source cannot be read; {} if all can.

    Returns:
      {"unreadable": {"images", "of", "first"}}: their number, that of the examples tried, and
      what is wrong with the first.
    """
    index, _, problems = _sampled(source, samples)
    return _unreadable(problems, index)


def _unreadable(problems: list[str], index: np.ndarray) -> dict[str, Any]:
    if not problems:
        return {}
    return dict(unreadable=dict(images=len(problems), of=len(index), first=problems[0]))


def _sampled(source: Source, samples: int) -> tuple[np.ndarray, list[dict[str, Any]], list[str]]:
    """Numbers of examples, those as they are stored, and what is wrong with the unreadable."""
    index = np.unique(np.linspace(0, source.size - 1, samples).astype(np.int64))
    read = single_reader(source)
    examples, problems = [], []
    for i in index:
        try:
            examples.append(read(int(i), np.zeros((0, 2), np.uint32)))
        except InputError as error:
            problems.append(str(error))
    return index, examples, problems


def _read(
    source: Source, preprocess: Preprocess, epoch: np.ndarray, index: np.ndarray, *, seed: int
) -> list[dict[str, Any]]:
    """Reads single examples with the augmentation of the given epochs."""
    from vit_jax.data.batches import graph

    read = graph.reader(source, preprocess)
    words = order.words(epoch, index, seed=seed, count=preprocess.num_random)
    examples = [read(int(i), word) for i, word in zip(index, words)]
    for example in examples:
        if "label" not in example:
            labels = source.labels(np.array([example["index"]]))
            assert labels is not None  # they are known, or in the payload
            example["label"] = labels[0]
    return examples


def contact_sheet(
    source: Source,
    preprocess: Preprocess,
    path: str,
    *,
    examples: int = 8,
    epochs: int = 3,
    seed: int = 0,
) -> None:
    """Draws the first readable examples of a run to a PNG, before and after augmentation.

    Args:
      source, preprocess: images and their preprocessing.
      path: path of the PNG; one column per example, one row per epoch below the original.
      examples, epochs: number of columns, and of rows below the first.
      seed: seed of the run.

    Raises:
      InputError: the picture cannot be written.
    """
    from PIL import Image, ImageDraw

    index = _first_readable(source, examples, seed)
    rows = [_read(source, parse("decode"), np.zeros_like(index), index, seed=seed)]
    rows += [
        _read(source, preprocess, np.full_like(index, epoch), index, seed=seed)
        for epoch in range(epochs)
    ]
    height = _CAPTION + len(rows) * (_CELL + 2)
    sheet = Image.new("RGB", (examples * (_CELL + 2), height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, example in enumerate(rows[0]):
        name = _name(source.label_names, example["label"])
        draw.text((column * (_CELL + 2) + 2, 2), name[: _CELL // 7], fill="black")
    for row, found in enumerate(rows):
        for column, example in enumerate(found):
            corner = column * (_CELL + 2), _CAPTION + row * (_CELL + 2)
            sheet.paste(_fitted(example["image"]), corner)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def _first_readable(source: Source, count: int, seed: int) -> np.ndarray:
    read, found, problem = single_reader(source), [], None
    for position in range(20 * count):
        _, index = source.order(np.array([position]), seed=seed, shuffle=True)
        try:
            read(int(index[0]), np.zeros((0, 2), np.uint32))
        except InputError as error:
            problem = error
            continue
        found.append(int(index[0]))
        if len(found) == count:
            return np.array(found)
    raise problem or InputError(f"{source.name} has no image to draw")


def _name(names: Sequence[str], label: np.ndarray) -> str:
    """The class name of a label; for a set of classes, their names joined."""
    classes = np.flatnonzero(label) if np.ndim(label) else [label]
    return ", ".join(names[int(i)] for i in classes) or "none"


def _fitted(image: np.ndarray) -> Any:
    """The image resized to fit a cell, aspect ratio kept."""
    from PIL import Image

    scale = _CELL / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    # Small pictures show their pixels.
    smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return Image.fromarray(image).resize(size, smooth)


@dataclasses.dataclass(frozen=True)
class Speed:
    """The speed of the training pipeline alone.

    Attributes:
      images_per_second: images per second, after the first batch.
      skipped: number of unreadable examples of which another took the place.
      seen: number of examples read.
    """

    images_per_second: float
    skipped: int
    seen: int


def measure_speed(
    source: Source,
    preprocess: Preprocess,
    *,
    batch_size: int,
    threads: int = 0,
    seconds: float = 5.0,
) -> Speed:
    """Reads training batches for a while; unreadable examples are skipped, however many."""
    batches = train_batches(
        source, preprocess, batch_size=batch_size, seed=0, threads=threads, max_unreadable=1
    )
    try:
        next(batches)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            next(batches)
            count += 1
        speed = count * batch_size / (time.perf_counter() - start)
        return Speed(speed, batches.skipped, batches.seen)
    finally:
        batches.close()

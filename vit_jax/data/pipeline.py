"""Batches for training and evaluation; their content is a pure function of the step.

Global batch k has positions [k * batch_size, (k + 1) * batch_size) of the stream that
`order` defines; a process reads the rows of it that its devices hold. Sources in memory whose
operations all have a batched form never touch TensorFlow.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from vit_jax.data import order
from vit_jax.data.batches import memory, plain
from vit_jax.data.batches.examples import EvaluationPlan, Plan, TrainingPlan
from vit_jax.data.batches.unreadable import (
    LEFT_OUT,
    LeftOut,
    Refusal,
    Replacements,
    Unreadable,
)
from vit_jax.data.named import NamedSource, open_images
from vit_jax.data.ops.image_files import MAX_PIXELS
from vit_jax.data.ops.op import coin
from vit_jax.data.ops.preprocess import Preprocess, Size
from vit_jax.data.sources.source import ArraySource, Source
from vit_jax.errors import InputError

Batch = dict[str, np.ndarray]

_FOREVER = 2**62  # steps
_AT_ONCE = 16  # addresses that are read at a time


class Batches(Iterator[Batch]):
    """An iterator over training batches.

    Attributes:
      skipped: number of unreadable examples replaced so far.
      seen: number of examples read so far.
    """

    def __init__(
        self,
        batches: Generator[Batch, None, None],
        replacements: Replacements,
        flips: Callable[[Batch], np.ndarray] | None,
    ):
        self._batches = batches
        self._replacements = replacements
        self._flips = flips

    def __next__(self) -> Batch:
        batch = next(self._batches)
        return dict(batch, flip=self._flips(batch)) if self._flips else batch

    @property
    def skipped(self) -> int:
        return self._replacements.skipped

    @property
    def seen(self) -> int:
        return self._replacements.seen

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()


def train_batches(
    source: Source,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    stop_step: int | None = None,
    rows: np.ndarray | None = None,
    shuffle: bool = True,
    threads: int = 0,
    prefetch: int = 2,
    max_unreadable: float = 0.01,
    leave_flip: bool = False,
) -> Batches:
    """Training batches from `start_step` on; endless without a `stop_step`.

    An unreadable example is replaced by another one, a pure function of (seed, epoch,
    example), counted and named once.

    Args:
      source: source of the examples.
      preprocess: preprocessing of their images.
      batch_size: examples per step over all processes.
      seed: seed of order and augmentation, in [0, 2**64).
      start_step: number of the first batch.
      stop_step: number of the first batch that is not made.
      rows: int64 (b,) ascending, the rows of each global batch that this process reads;
        None: all.
      shuffle: whether to use a new order every epoch; else the order of the source.
      threads: number of decoding threads; 0: one per core.
      prefetch: number of batches prepared ahead.
      max_unreadable: largest share of unreadable examples; the first ten are always allowed
        unless it is 0.
      leave_flip: leave a final `flip_lr` to the caller and return which images to flip;
        flipping on the host takes a twentieth of the pipeline's time.

    Returns:
      An iterator of {"image": uint8 (b, h, w, 3), "label": int32 (b,) or uint8
      (b, classes), "index": int64 (b,), "epoch": int64 (b,)}, and "flip": bool (b,) if
      flips are left to the caller. Its `skipped` counts up to the last batch it returned.

    Raises:
      InputError: images have no common size; when iterated: too many unreadable examples.
    """
    rows = _rows(batch_size, rows)
    size = _image_size(source, preprocess)
    flips = None
    if leave_flip and preprocess.ends_with_flip:
        flips = functools.partial(_last_coins, seed, preprocess.num_random)
        preprocess = dataclasses.replace(preprocess, ops=preprocess.ops[:-1])
    plan = TrainingPlan(source, batch_size, rows, preprocess.num_random, seed, shuffle)
    replacements = Replacements(source, preprocess, plan, max_unreadable)
    batches = _batches(
        source, preprocess, plan, range(start_step, stop_step or _FOREVER), size, threads,
        prefetch, replacements,
    )  # fmt: skip
    return Batches(batches, replacements, flips)


def planned_examples(
    source: Source, *, batch_size: int, seed: int, step: int, shuffle: bool = True
) -> np.ndarray:
    """The numbers of the examples of global batch `step`, unreadable ones included.

    Args:
      source, batch_size, seed, shuffle: as in `train_batches`.
      step: number of the batch, from 0.

    Returns:
      int64 (batch_size,).
    """
    plan = TrainingPlan(source, batch_size, np.arange(batch_size), 0, seed, shuffle)
    if source.sequential:
        from vit_jax.data.batches import sequential

        planned, _ = next(sequential.batches(source, plan, step))
        return planned.index
    return plan(step).index


def _last_coins(seed: int, num_random: int, batch: Batch) -> np.ndarray:
    """The coin of the last random operation, for each example: bool (b,)."""
    words = order.words(batch["epoch"], batch["index"], seed=seed, count=num_random)
    return coin(words[:, -1])


def eval_batches(
    source: Source,
    preprocess: Preprocess,
    *,
    batch_size: int,
    rows: np.ndarray | None = None,
    threads: int = 0,
    prefetch: int = 2,
    examples: np.ndarray | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is padded.

    Random operations are replaced by their form for evaluation.

    Args:
      source, preprocess, batch_size, rows, threads, prefetch: as in `train_batches`.
      examples: int (n,), numbers of the examples to use, in this order; None: all.
      left_out: names and counts unreadable examples, which are masked like padding; None: the
        first one is an error.

    Returns:
      An iterator of batches as in training, with "mask": bool (b,), False for padding
      (black images, index -1). Every process gets the same number of batches.

    Raises:
      InputError: as in training; when iterated: an unreadable example, by name, or too many.
    """
    rows = _rows(batch_size, rows)
    preprocess = preprocess.deterministic()
    size = _image_size(source, preprocess)
    examples = np.arange(source.size) if examples is None else np.asarray(examples, np.int64)
    plan = EvaluationPlan(examples, batch_size, rows)
    steps = range(-(-len(examples) // batch_size))
    unreadable = left_out or Refusal()
    batches = _batches(source, preprocess, plan, steps, size, threads, prefetch, unreadable)
    return (_padded(batch, len(rows)) for batch in batches)


def load_images(
    paths: Sequence[str], preprocess: Preprocess, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Reads image files and preprocesses them as in evaluation.

    Args:
      paths: image files.
      preprocess: preprocessing of the images.
      max_pixels: largest number of pixels of a file.

    Returns:
      uint8 (n, h, w, 3).

    Raises:
      InputError: a file is missing or unreadable, or sizes differ.
    """
    return next(image_batches(paths, preprocess, len(paths), max_pixels))[1]


def image_batches(
    paths: Sequence[str],
    preprocess: Preprocess,
    batch_size: int,
    max_pixels: int = MAX_PIXELS,
    on_unreadable: Callable[[str, InputError], None] | None = None,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Reads images in batches: (paths of the batch, uint8 (B, H, W, 3)).

    Threads read the next batch while the caller uses one.

    Args:
      paths: image files, and addresses such as https://host/cat.jpg.
      preprocess: their preprocessing.
      batch_size: of all batches but the last, which may be smaller.
      max_pixels: limit on an image's pixels.
      on_unreadable: called with the path of an image that cannot be read, or has another size
        than the first, and the error; the image is left out, so that a batch may be smaller or
        empty. None: the error is raised.

    Raises:
      InputError: an image cannot be read, or has another size than the first.
    """
    source = open_images(paths, max_pixels)
    read = plain.reader(source, preprocess.deterministic(), source.file_bytes)
    first: tuple[str, np.ndarray] | None = None
    threads = os.cpu_count() or 1
    if isinstance(source, NamedSource):
        threads = max(threads, _AT_ONCE)  # they wait for servers, not for processors
    with ThreadPoolExecutor(threads) as pool:

        def submit(start: int) -> list[Future]:
            indices = range(start, min(start + batch_size, len(paths)))
            return [pool.submit(read, i, np.zeros((0, 2), np.uint32)) for i in indices]

        coming = submit(0)
        for start in range(0, len(paths), batch_size):
            ready, coming = coming, submit(start + batch_size)
            readable: list[str] = []
            images: list[np.ndarray] = []
            for path, future in zip(paths[start : start + batch_size], ready):
                try:
                    image = future.result()["image"]
                    first = first or (path, image)
                    check_same_size(path, image, *first)
                except InputError as error:
                    if on_unreadable is None:
                        raise
                    on_unreadable(path, error)
                    continue
                readable.append(path)
                images.append(image)
            yield readable, np.stack(images) if images else np.zeros((0, 1, 1, 3), np.uint8)


def check_same_size(path: str, image: np.ndarray, first_path: str, first: np.ndarray) -> None:
    """Refuses an image of another size than the first after preprocessing."""
    if image.shape != first.shape:
        raise InputError(
            f"{path} is {image.shape[0]}x{image.shape[1]} after preprocessing, "
            f"{first_path} {first.shape[0]}x{first.shape[1]}; "
            "add resize(SIZE) to the operations"
        )


def _rows(batch_size: int, rows: np.ndarray | None) -> np.ndarray:
    """Rows of the global batch that this process reads."""
    if batch_size <= 0:
        raise InputError(f"batch size {batch_size} must be at least 1")
    return np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)


def _image_size(source: Source, preprocess: Preprocess) -> Size:
    size = preprocess.output_size(source.image_size)
    if size is None:
        raise InputError(
            f"images of {source.name} may differ in size after {str(preprocess)!r}; "
            "add an operation that fixes it, e.g. resize(224) or inception_crop(224)"
        )
    return size


def _batches(
    source: Source,
    preprocess: Preprocess,
    plan: Plan,
    steps: range,
    size: Size,
    threads: int,
    prefetch: int,
    on_unreadable: Unreadable,
) -> Generator[Batch, None, None]:
    """Batches of the planned examples, made without TensorFlow if possible."""
    threads = threads or len(os.sched_getaffinity(0))
    if isinstance(source, ArraySource) and preprocess.has_batched:
        return memory.batches(source, preprocess, plan, steps, threads, prefetch)
    from vit_jax.data.batches import graph

    return graph.batches(source, preprocess, plan, steps, size, threads, prefetch, on_unreadable)


def _padded(batch: Batch, rows: int) -> Batch:
    """A batch padded to full size, with a mask of its real examples."""
    have = len(batch["index"])
    missing = rows - have
    padded = {name: _extended(value, missing) for name, value in batch.items()}
    padded["index"] = np.concatenate([batch["index"], np.full(missing, LEFT_OUT, np.int64)])
    padded["mask"] = padded["index"] != LEFT_OUT
    return padded


def _extended(value: np.ndarray, rows: int) -> np.ndarray:
    """An array with `rows` more rows of zeros."""
    if not rows:
        return value
    return np.concatenate([value, np.zeros((rows, *value.shape[1:]), value.dtype)])

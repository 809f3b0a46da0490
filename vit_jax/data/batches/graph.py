"""Batches through tf.data: files and records are read, decoded and batched in parallel.

Unreadable examples drop out of the stream. The others carry their step and row, so that
the missing rows of a batch are found and filled.
"""

import atexit
import contextlib
import functools
import re
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from vit_jax.data._tf import tf
from vit_jax.data.batches import sequential
from vit_jax.data.batches.examples import Plan, Planned, TrainingPlan
from vit_jax.data.batches.unreadable import Unreadable
from vit_jax.data.ops import image_files
from vit_jax.data.ops.preprocess import Preprocess, Size
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError

Batch = dict[str, np.ndarray]
_open: weakref.WeakSet = weakref.WeakSet()  # iterators that may be reading ahead


def reader(source: Source, preprocess: Preprocess) -> Callable[[int, np.ndarray], dict]:
    """Reads single examples: (index, words) -> {"image", "index"[, "label"]}.

    The function raises an InputError that names the example if it cannot be read.
    """
    payload = tf.TensorSpec([], tf.string)
    words = tf.TensorSpec([preprocess.num_random, 2], tf.uint32)
    compute = tf.function(functools.partial(source.example, preprocess), autograph=False)
    compute = compute.get_concrete_function(payload, words)

    def read(index: int, words: np.ndarray) -> dict[str, Any]:
        rows = np.array([index])
        try:
            found = compute(tf.constant(source.fetch(rows)[0]), tf.constant(words))
        except tf.errors.OpError as error:
            raise InputError(f"{source.describe(index)}: {_reason(error, source, index)}") from None
        found = {name: value.numpy() for name, value in found.items()}
        return dict(found, index=index)

    return read


def _reason(error: tf.errors.OpError, source: Source, index: int) -> str:
    """Why an example is unreadable, in a few words."""
    text = str(error)
    if isinstance(error, tf.errors.NotFoundError):
        return "no such file"
    if isinstance(error, tf.errors.PermissionDeniedError):
        return "permission denied"
    if match := re.search(r"(the image (?:is|has) [^\]\n]*)|InputError: (.*)", text):
        return (match[1] or match[2]).rstrip(". ").replace("\\'", "'")
    with contextlib.suppress(OSError):
        return image_files.why_unreadable(source.head(index))
    return image_files.why_unreadable(b"?")


def batches(
    source: Source,
    preprocess: Preprocess,
    plan: Plan,
    steps: range,
    size: Size,
    threads: int,
    prefetch: int,
    on_unreadable: Unreadable,
) -> Generator[Batch, None, None]:
    """Batches of the planned examples, `size` pixels each."""
    planned: dict[int, Planned | Exception] = {}  # what the steps on their way hold
    if isinstance(plan, TrainingPlan) and source.sequential:
        in_turn = sequential.batches(source, plan, steps.start)
        data = _payloads(lambda step: next(in_turn), steps, planned, at_once=1)
    else:
        data = _payloads(
            lambda step: (found := plan(step), source.fetch(found.index)), steps, planned, at_once=2
        )
    data = _decoded(data, source, preprocess, size, threads)
    read = reader(source, preprocess)
    nothing = {
        name: tf.zeros([0, *s.shape], s.dtype).numpy() for name, s in data.element_spec.items()
    }
    data = data.batch(max(1, len(plan.rows))).prefetch(prefetch)
    by_step = _by_step(data.as_numpy_iterator(), steps, planned)
    _open.add(by_step)
    for wanted, parts in by_step:
        found, index = _joined([nothing, *parts]), wanted.index
        on_unreadable.seen += len(index)
        if len(found["slot"]) < len(index):
            found, index = _filled(found, wanted, functools.partial(on_unreadable, read=read))
        label = found["label"] if "label" in found else source.labels(index)
        assert label is not None  # they are known, or in the payload
        yield dict(image=found["image"], label=label, index=index, epoch=wanted.epoch)


@atexit.register
def _close_all() -> None:
    """Ends all reading; threads that call Python would delay the interpreter's exit."""
    for by_step in list(_open):
        with contextlib.suppress(ValueError):  # it runs in a thread that ends with the process
            by_step.close()


def _payloads(
    fetch: Callable[[int], tuple[Planned, np.ndarray]],
    steps: range,
    planned: dict[int, Planned | Exception],
    at_once: int,
) -> tf.data.Dataset:
    """(step, words (m, num_random, 2), payloads (m,)) of each step.

    The plan of each step is stored in `planned`, as is an exception of `fetch`, which ends
    the data.
    """

    def call(step: np.ndarray) -> tuple[bool, np.ndarray, np.ndarray]:
        try:
            found, payloads = fetch(int(step))
            planned[int(step)] = found
            return True, found.words, payloads
        except Exception as error:  # raised again by the consumer at this step
            planned[int(step)] = error
            return False, np.zeros((0, 0, 2), np.uint32), np.zeros(0, object)

    data = tf.data.Dataset.range(steps.start, steps.stop).map(
        lambda step: (step, *tf.numpy_function(call, [step], (tf.bool, tf.uint32, tf.string))),
        num_parallel_calls=at_once,
    )
    data = data.take_while(lambda step, ok, words, payloads: tf.ensure_shape(ok, []))
    return data.map(lambda step, ok, words, payloads: (step, words, payloads))


def _decoded(
    payloads: tf.data.Dataset, source: Source, preprocess: Preprocess, size: Size, threads: int
) -> tf.data.Dataset:
    """The readable examples in order; `step` and `slot` give their batch and row."""

    def numbered(step, words, payload) -> tuple[tf.Tensor, ...]:
        slot = tf.range(tf.size(payload))
        words = tf.ensure_shape(words, [None, preprocess.num_random, 2])
        words = tf.pad(words, [[0, 0], [0, 1], [0, 0]])  # unbatching empty rows crashes
        return tf.fill(tf.shape(slot), step), slot, words, tf.ensure_shape(payload, [None])

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and trying takes seconds
    def one(step, slot, words, payload) -> dict[str, tf.Tensor]:
        found = source.example(preprocess, payload, words)
        if not found["image"].shape.is_fully_defined():
            found["image"] = tf.ensure_shape(found["image"], [*size, 3])
        return dict(found, step=step, slot=slot)

    data = payloads.map(numbered).unbatch()
    # More images in flight than threads, so that no thread waits for a slow one.
    data = data.map(one, num_parallel_calls=4 * threads, deterministic=True).ignore_errors()
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return data.with_options(options)


def _by_step(
    chunks: Iterator[Batch], steps: range, planned: dict[int, Planned | Exception]
) -> Generator[tuple[Planned, list[Batch]], None, None]:
    """Cuts the stream of examples, from which unreadable ones are missing, into steps."""
    chunk: Batch | None = None
    for step in steps:
        parts, have = [], 0
        while step not in planned or have < len(_checked(planned[step]).index):
            chunk = chunk or next(chunks, None)
            cut = int(np.searchsorted(chunk["step"], step, side="right")) if chunk else 0
            if not chunk or not cut:
                break  # the next chunk belongs to later steps: the rest of this one is unreadable
            parts.append({name: value[:cut] for name, value in chunk.items()})
            have += cut
            whole = cut == len(chunk["step"])
            chunk = None if whole else {name: value[cut:] for name, value in chunk.items()}
        yield _checked(planned.pop(step)), parts


def _checked(planned: Planned | Exception) -> Planned:
    """Raises the exception of planning a batch or fetching its payloads, if any."""
    if isinstance(planned, OSError):
        raise InputError(f"{planned.filename}: cannot be read: {planned.strerror}")
    if isinstance(planned, Exception):
        raise planned
    return planned


def _joined(parts: list[Batch]) -> Batch:
    """Joins parts of a batch; the first part is empty and gives names and dtypes."""
    if len(parts) <= 2:
        return parts[-1]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _filled(found: Batch, wanted: Planned, replace: Callable) -> tuple[Batch, np.ndarray]:
    """Fills the missing rows of a batch with other examples; also returns its indices."""
    index = wanted.index.copy()
    filled = {}
    for name in found.keys() & {"image", "label"}:
        value = found[name]
        filled[name] = np.zeros((len(index), *value.shape[1:]), value.dtype)
        filled[name][found["slot"]] = value
    for slot in np.setdiff1d(np.arange(len(index)), found["slot"]):
        example = replace(int(wanted.epoch[slot]), int(index[slot]), wanted.words[slot])
        index[slot] = example["index"]
        for name in filled.keys() & example.keys():  # none, if it is left out
            filled[name][slot] = example[name]
    return filled, index

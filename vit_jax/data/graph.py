"""Batches through tf.data: files and records are read, decoded and batched in parallel.

Each batch is a small data set of its own inside a parallel interleave, so that an
example that cannot be read leaves a hole in its own batch only, which is then filled.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vit_jax.data import tf_ops
from vit_jax.data._tf import tf
from vit_jax.data.ops import Preprocess, Size
from vit_jax.data.plan import Plan
from vit_jax.data.records import RecordSource
from vit_jax.data.sources import ArraySource, FileSource, Source
from vit_jax.errors import InputError

Batch = dict[str, np.ndarray]
_BATCHES_AT_ONCE = 2  # so that no thread waits for the last images of a batch


@functools.singledispatch
def example(
    source: Source, preprocess: Preprocess, payload: tf.Tensor, words: tf.Tensor
) -> dict[str, tf.Tensor]:
    """One example in the graph: {"image": uint8 (h, w, 3)}, and "label" if the payload has it.

    Args:
      source: that the payload is from.
      preprocess: what is done to the image.
      payload: string scalar.
      words: uint32 (num_random, 2).
    """
    raise NotImplementedError(type(source))


@example.register
def _(source: ArraySource, preprocess, payload, words):
    image = tf.reshape(tf.io.decode_raw(payload, tf.uint8), source.images.shape[1:])
    return dict(image=tf_ops.preprocess_pixels(preprocess, image, words))


@example.register
def _(source: FileSource, preprocess, payload, words):
    encoded = tf.io.read_file(payload)
    return dict(image=tf_ops.preprocess_encoded(preprocess, encoded, words))


@example.register
def _(source: RecordSource, preprocess, payload, words):
    keys = {
        source.image_key: tf.io.FixedLenFeature([], tf.string),
        source.label_key: tf.io.VarLenFeature(tf.int64),
    }
    found = tf.io.parse_single_example(payload, keys)
    image = tf_ops.preprocess_encoded(preprocess, found[source.image_key], words)
    labels = found[source.label_key].values
    if source.multi_label:
        label = tf.reduce_max(tf.one_hot(labels, source.num_classes, dtype=tf.uint8), 0)
    else:
        label = tf.cast(tf.ensure_shape(labels, [1])[0], tf.int32)
    return dict(image=image, label=label)


def reader(source: Source, preprocess: Preprocess) -> Callable[[int, np.ndarray], dict]:
    """Reads single examples: (index, words) -> {"image", "index"[, "label"]}.

    The function raises an InputError that names the example if it cannot be read.
    """
    payload = tf.TensorSpec([], tf.string)
    words = tf.TensorSpec([preprocess.num_random, 2], tf.uint32)
    compute = tf.function(functools.partial(example, source, preprocess))
    compute = compute.get_concrete_function(payload, words)

    def read(index: int, words: np.ndarray) -> dict[str, Any]:
        rows = np.array([index])
        try:
            found = compute(tf.constant(source.fetch(rows)[0]), tf.constant(words))
        except tf.errors.OpError as error:
            raise InputError(f"{source.describe(index)}: {_reason(error)}") from None
        found = {name: value.numpy() for name, value in found.items()}
        return dict(found, index=index)

    return read


def _reason(error: tf.errors.OpError) -> str:
    """What is wrong with an example, in words."""
    text = str(error)
    if isinstance(error, tf.errors.NotFoundError):
        return "no such file"
    if isinstance(error, tf.errors.PermissionDeniedError):
        return "permission denied"
    if match := re.search(r"the image is smaller than \w+\([^)]*\)+|InputError: (.*)", text):
        return match[1] or match[0]
    return "cannot be read as an image: truncated, damaged or of an unknown format"


def batches(
    source: Source,
    preprocess: Preprocess,
    plan: Plan,
    steps: range,
    size: Size,
    threads: int,
    prefetch: int,
    on_unreadable: Callable,
) -> Iterator[Batch]:
    """Batches of the planned examples; see `trouble` for the last argument."""
    data = _dataset(source, preprocess, plan, steps, size, threads, prefetch)
    read = reader(source, preprocess)
    for found in data.as_numpy_iterator():
        on_unreadable.seen += len(found["index"])
        if len(found["slot"]) < len(found["index"]):
            found = _filled(found, plan, lambda *example: on_unreadable(*example, read))
        if "label" not in found:
            found["label"] = source.labels(found["index"])
        yield {name: found[name] for name in ("image", "label", "index", "epoch")}


def _filled(found: Batch, plan: Plan, replace: Callable) -> Batch:
    """A batch with other examples in its holes."""
    epoch, index, words = plan(int(found["step"]))
    index = index.copy()
    filled = dict(epoch=epoch, index=index)
    for name in found.keys() & {"image", "label"}:
        value = found[name]
        filled[name] = np.zeros((len(index), *value.shape[1:]), value.dtype)
        filled[name][found["slot"]] = value
    for slot in np.setdiff1d(np.arange(len(index)), found["slot"]):
        example = replace(int(epoch[slot]), int(index[slot]), words[slot])
        index[slot] = example["index"]
        for name in filled.keys() & {"image", "label"}:
            filled[name][slot] = example[name]
    return filled


def _dataset(
    source: Source,
    preprocess: Preprocess,
    plan: Plan,
    steps: range,
    size: Size,
    threads: int,
    prefetch: int,
) -> tf.data.Dataset:
    """One element a step: the batch, `slot` saying which rows of it could be read."""

    def fetch(step: np.ndarray):
        epoch, index, words = plan(int(step))
        return epoch, index, words, source.fetch(index)

    def planned(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        types = (tf.int64, tf.int64, tf.uint32, tf.string)
        epoch, index, words, payload = tf.numpy_function(fetch, [step], types)
        words = tf.ensure_shape(words, [None, preprocess.num_random, 2])
        return step, *(tf.ensure_shape(x, [None]) for x in (epoch, index)), words, payload

    def batch(step, epoch, index, words, payload) -> tf.data.Dataset:
        slots = tf.range(tf.size(index))
        examples = tf.data.Dataset.from_tensor_slices((slots, payload, words))
        examples = examples.map(one, num_parallel_calls=threads, deterministic=True)
        examples = examples.ignore_errors()
        rows = examples.batch(tf.maximum(tf.size(index, tf.int64), 1))
        nothing = tf.nest.map_structure(
            lambda spec: tf.zeros([0, *spec.shape], spec.dtype), examples.element_spec
        )
        rows = rows.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1)
        return rows.map(lambda row: dict(row, step=step, epoch=epoch, index=index))

    def one(slot, payload, words) -> dict[str, tf.Tensor]:
        found = example(source, preprocess, tf.ensure_shape(payload, []), words)
        found["image"] = tf.ensure_shape(found["image"], [*size, 3])
        return dict(found, slot=slot)

    data = tf.data.Dataset.range(steps.start, steps.stop)
    data = data.map(planned, num_parallel_calls=_BATCHES_AT_ONCE)
    data = data.interleave(
        batch, cycle_length=_BATCHES_AT_ONCE, num_parallel_calls=_BATCHES_AT_ONCE
    )
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return data.prefetch(prefetch).with_options(options)

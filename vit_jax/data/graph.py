"""Batches through tf.data: files and records are read, decoded and batched in parallel.

Each batch is a small data set of its own inside a parallel interleave, so that an
example that cannot be read leaves a hole in its own batch only, which is then filled.
"""

import atexit
import contextlib
import functools
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vit_jax.data import order, tf_ops
from vit_jax.data._tf import tf
from vit_jax.data.mixture import MixtureSource
from vit_jax.data.ops import Preprocess, Size
from vit_jax.data.plan import Plan, TrainingPlan
from vit_jax.data.records import RecordSource
from vit_jax.data.source import ArraySource, FileSource, Source
from vit_jax.data.trouble import Unreadable
from vit_jax.errors import InputError

Batch = dict[str, np.ndarray]
_BATCHES_AT_ONCE = 2  # so that no thread waits for the last images of a batch
_SHARDS_AT_ONCE = 16  # whose records are mixed where files are read from front to back
SHUFFLE_BUFFER = 8192  # records, there

# How what our own functions raise stands in TensorFlow's messages.
_RAISED = r"(?:InputError|FileNotFoundError|PermissionError|OSError): (.*)"

_open: weakref.WeakSet = weakref.WeakSet()  # iterators that may be reading ahead


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


@example.register
def _(source: MixtureSource, preprocess, payload, words):
    def branch(number: int) -> dict[str, tf.Tensor]:
        component, classes = source.components[number], source.class_of[number]
        prefix = 0 if isinstance(component, RecordSource) else source.label_bytes
        found = example(component, preprocess, tf.strings.substr(payload, 1 + prefix, -1), words)
        label = tf.strings.substr(payload, 1, prefix)
        if isinstance(component, RecordSource):
            label = _relabelled(found["label"], classes, source)
        elif source.multi_label:
            label = tf.io.decode_raw(label, tf.uint8)
        else:
            label = tf.io.decode_raw(label, tf.int32)[0]
        shape = [source.num_classes] if source.multi_label else []
        return dict(image=found["image"], label=tf.ensure_shape(label, shape))

    number = tf.cast(tf.io.decode_raw(tf.strings.substr(payload, 0, 1), tf.uint8)[0], tf.int32)
    branches = [functools.partial(branch, i) for i in range(len(source.components))]
    return tf.switch_case(number, branches)


def _relabelled(label: tf.Tensor, classes: np.ndarray, source: MixtureSource) -> tf.Tensor:
    """A component's label as the mixture's."""
    if not source.multi_label:
        return tf.gather(tf.constant(classes, tf.int32), label)
    return tf.scatter_nd(classes[:, None].astype(np.int32), label, [source.num_classes])


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
    on_unreadable: Unreadable,
) -> Iterator[Batch]:
    """Batches of the planned examples, `size` pixels each."""
    if isinstance(plan, TrainingPlan) and getattr(source, "sequential", False):
        planned = _sequential(source, plan, steps)
    else:
        planned = _at_random(source, plan, steps)
    data = _decoded(planned, source, preprocess, size, threads).prefetch(prefetch)
    read = reader(source, preprocess)
    elements = _read_through(data, source)
    _open.add(elements)
    for found in elements:
        on_unreadable.seen += len(found["index"])
        if len(found["slot"]) < len(found["index"]):
            found = _filled(found, lambda *example: on_unreadable(*example, read))
        if "label" not in found:
            found["label"] = source.labels(found["index"])
        yield {name: found[name] for name in ("image", "label", "index", "epoch")}


@atexit.register
def _close_all() -> None:
    """Ends all reading: threads that call Python would keep a dying interpreter waiting."""
    for elements in list(_open):
        with contextlib.suppress(ValueError):  # running, in a thread that dies with us
            elements.close()


def _read_through(data: tf.data.Dataset, source: Source) -> Iterator[Batch]:
    """The elements of a data set; files that went away or are damaged are named."""
    elements = data.as_numpy_iterator()
    while True:
        try:
            yield next(elements)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error)).strip()
            if cause := re.search(_RAISED, text):
                raise InputError(cause[1]) from None
            if isinstance(error, tf.errors.NotFoundError | tf.errors.DataLossError):
                raise InputError(f"{source.name}: {text}") from None
            raise


def _filled(found: Batch, replace: Callable) -> Batch:
    """A batch with other examples in its holes."""
    epoch, index = found["epoch"], found["index"].copy()
    filled = dict(epoch=epoch, index=index)
    for name in found.keys() & {"image", "label"}:
        value = found[name]
        filled[name] = np.zeros((len(index), *value.shape[1:]), value.dtype)
        filled[name][found["slot"]] = value
    for slot in np.setdiff1d(np.arange(len(index)), found["slot"]):
        example = replace(int(epoch[slot]), int(index[slot]), found["words"][slot])
        index[slot] = example["index"]
        for name in filled.keys() & {"image", "label"}:
            filled[name][slot] = example[name]
    return filled


# A data set of planned batches has elements (epoch, index, words, payload), see `Planned`.
_PLANNED = (tf.int64, tf.int64, tf.uint32, tf.string)


def _at_random(source: Source, plan: Plan, steps: range) -> tf.data.Dataset:
    """Planned batches with payloads fetched by index."""

    def fetch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        planned = plan(int(step))
        return *planned, source.fetch(planned.index)

    data = tf.data.Dataset.range(steps.start, steps.stop)
    return data.map(
        lambda step: tf.numpy_function(fetch, [step], _PLANNED),
        num_parallel_calls=_BATCHES_AT_ONCE,
    )


def _sequential(source: RecordSource, plan: TrainingPlan, steps: range) -> tf.data.Dataset:
    """Planned batches with payloads read from front to back; see `records`."""
    paths = [shard.path for shard in source.shards]
    columns = [
        tf.constant(paths),
        tf.constant([shard.skip for shard in source.shards], tf.int64),
        tf.constant([shard.take for shard in source.shards], tf.int64),
        tf.constant(source.starts[:-1], tf.int64),
    ]
    first_epoch, done = divmod(steps.start * plan.batch_size, source.size)

    def shard_order(epoch: np.ndarray) -> np.ndarray:
        numbers = np.arange(len(paths))
        if not plan.shuffle:
            return numbers
        return order.permutation(numbers, int(epoch), seed=plan.seed, size=len(paths))

    def read_shard(number: tf.Tensor) -> tf.data.Dataset:
        path, skip, take, start = (tf.gather(column, number) for column in columns)
        records = tf.data.TFRecordDataset(path).skip(skip).take(take)
        return records.enumerate(start)

    def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.ensure_shape(tf.numpy_function(shard_order, [epoch], tf.int64), [None])
        data = tf.data.Dataset.from_tensor_slices(numbers)
        if not plan.shuffle:
            data = data.flat_map(read_shard)
        else:
            data = data.interleave(read_shard, _SHARDS_AT_ONCE, 1, num_parallel_calls=2)
            data = data.shuffle(SHUFFLE_BUFFER, seed=epoch + plan.seed % 2**31)
        return data.map(lambda index, record: (epoch, index, record))

    def planned(epoch, index, record) -> tuple[tf.Tensor, ...]:
        epoch, index, payload = (tf.gather(x, plan.rows) for x in (epoch, index, record))
        words = tf.numpy_function(lambda *at: plan.at(*at).words, [epoch, index], tf.uint32)
        return epoch, index, words, payload

    data = tf.data.Dataset.range(first_epoch, 2**31).flat_map(read_epoch).skip(done)
    return data.batch(plan.batch_size, drop_remainder=True).map(planned)


def _decoded(
    planned: tf.data.Dataset, source: Source, preprocess: Preprocess, size: Size, threads: int
) -> tf.data.Dataset:
    """One element a planned batch; `slot` says which rows of it could be read."""

    def one(slot, payload, words) -> dict[str, tf.Tensor]:
        words = tf.ensure_shape(words, [preprocess.num_random, 2])
        found = example(source, preprocess, tf.ensure_shape(payload, []), words)
        found["image"] = tf.ensure_shape(found["image"], [*size, 3])
        return dict(found, slot=slot)

    def batch(epoch, index, words, payload) -> tf.data.Dataset:
        slots = tf.range(tf.size(index))
        examples = tf.data.Dataset.from_tensor_slices((slots, payload, words))
        examples = examples.map(one, num_parallel_calls=threads, deterministic=True)
        examples = examples.ignore_errors()
        rows = examples.batch(tf.maximum(tf.size(index, tf.int64), 1))
        nothing = tf.nest.map_structure(
            lambda spec: tf.zeros([0, *spec.shape], spec.dtype), examples.element_spec
        )
        rows = rows.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1)
        return rows.map(lambda row: dict(row, epoch=epoch, index=index, words=words))

    data = planned.map(
        lambda epoch, index, words, payload: (
            tf.ensure_shape(epoch, [None]),
            tf.ensure_shape(index, [None]),
            tf.ensure_shape(words, [None, preprocess.num_random, 2]),
            tf.ensure_shape(payload, [None]),
        )
    )
    data = data.interleave(
        batch, cycle_length=_BATCHES_AT_ONCE, num_parallel_calls=_BATCHES_AT_ONCE
    )
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return data.with_options(options)

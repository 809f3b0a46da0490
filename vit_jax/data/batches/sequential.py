"""Training batches from TFRecord files read from front to back; see `records` for why."""

import itertools
import logging
from collections.abc import Iterator

import numpy as np

from vit_jax.data import order
from vit_jax.data._tf import tf
from vit_jax.data.batches.examples import Planned, TrainingPlan
from vit_jax.data.sources.records import RecordSource
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError

log = logging.getLogger(__name__)

SHUFFLE_BUFFER = 8192  # records; of 110 kB, as ImageNet's, that is 0.9 GB
_SHARDS_AT_ONCE = 16
_CHUNK = 64  # records


def batches(
    source: Source, plan: TrainingPlan, start_step: int
) -> Iterator[tuple[Planned, np.ndarray]]:
    """One process's part of each batch from `start_step` on, with its payloads.

    Raises:
      InputError: a file is missing or damaged.
    """
    assert isinstance(source, RecordSource)  # no other is sequential
    first, done = divmod(start_step * plan.batch_size, source.size)
    if done:
        log.info(
            "%s: reading past the %s of %s records that epoch %d had used; ArrayRecord files or "
            "data.sequential=False need not",
            source.name, f"{done:,}", f"{source.size:,}", first,
        )  # fmt: skip
    records = itertools.chain.from_iterable(
        _epoch(source, plan, epoch, done if epoch == first else 0)
        for epoch in itertools.count(first)
    )
    while True:
        batch = list(itertools.islice(records, plan.batch_size))
        payloads = np.empty(len(plan.rows), object)
        payloads[:] = [batch[row][2] for row in plan.rows]
        epoch, index = (np.array([batch[row][i] for row in plan.rows]) for i in (0, 1))
        yield plan.at(epoch, index), payloads


def _epoch(
    source: RecordSource, plan: TrainingPlan, epoch: int, done: int
) -> Iterator[tuple[int, int, bytes]]:
    """(epoch, index, record) of one epoch, without the first `done`."""
    count = done
    try:
        chunks = _data(source, plan, epoch).skip(done).batch(_CHUNK).prefetch(2)
        for indices, records in chunks.as_numpy_iterator():
            count += len(indices)
            yield from zip(itertools.repeat(epoch), indices, records)
    except (tf.errors.NotFoundError, tf.errors.DataLossError) as error:
        raise InputError(f"{source.name}: {error.message}") from None
    if count != source.size:
        raise InputError(f"the files of {source.name} hold {count} examples of {source.size}")


def _data(source: RecordSource, plan: TrainingPlan, epoch: int) -> tf.data.Dataset:
    """(index, record) of one epoch."""
    paths = tf.constant([shard.path for shard in source.shards])
    skips = tf.constant([shard.skip for shard in source.shards], tf.int64)
    takes = tf.constant([shard.take for shard in source.shards], tf.int64)
    starts = tf.constant(source.starts[:-1], tf.int64)

    def read(shard: tf.Tensor) -> tf.data.Dataset:
        path, skip, take, start = (tf.gather(x, shard) for x in (paths, skips, takes, starts))
        return tf.data.TFRecordDataset(path).skip(skip).take(take).enumerate(start)

    shards = np.arange(len(source.shards))
    if not plan.shuffle:
        return tf.data.Dataset.from_tensor_slices(shards).flat_map(read)
    shards = order.permutation(shards, epoch, seed=plan.seed, size=len(shards))
    data = tf.data.Dataset.from_tensor_slices(shards)
    data = data.interleave(read, _SHARDS_AT_ONCE, 1, num_parallel_calls=2, deterministic=True)
    seed = order.mix32(np.array([epoch], np.uint32) ^ order.mix32(order.seed_key(plan.seed)[0]))
    return data.shuffle(SHUFFLE_BUFFER, seed=int(seed[0]))

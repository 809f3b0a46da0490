"""Small data sets that live on the devices: batches without host work or TensorFlow.

The order and the augmentation are those of `vit_jax.data`, bit for bit, computed on the
device from two integers per step.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vit_jax.data import order
from vit_jax.data.batches.memory import settled
from vit_jax.data.ops.op import OPERATIONS
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.sources.source import ArraySource
from vit_jax.errors import InputError
from vit_jax.parallel.pjit import PjitEngine


def resident_batches(
    source: Any,
    pp: Preprocess,
    engine: Any,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shuffle: bool = True,
) -> Iterator[dict[str, jax.Array]]:
    """Global training batches from `start_step` on, gathered and augmented on the devices.

    Args:
      source: an ArraySource; its images are copied to every device once.
      pp: preprocessing: first deterministic operations (they are applied before the copy),
        then random crops and flips.
      engine: engine of the run, which must be pjit.
      batch_size, seed, start_step, shuffle: arguments as in `data.train_batches`.

    Returns:
      An endless iterator of {"image": uint8 (B, h, w, 3), "label": (B,) or (B, K)}.

    Raises:
      InputError: a source, an operation or an engine that this does not cover.
    """
    check_resident(source, pp, "pjit" if isinstance(engine, PjitEngine) else "pmap")
    images, pp = _check(source, pp)
    labels = source.labels(np.arange(source.size))
    images, labels = jax.device_put((images, labels), engine.replicated)

    @functools.partial(jax.jit, out_shardings=engine.batch_sharding)
    def batch(images, labels, epoch, offset):
        epoch, index = _examples(epoch, offset, batch_size, seed, source.size, shuffle)
        words = _words(epoch, index, seed, pp.num_random)
        augmented = pp.batched(images[index], words, jnp)
        image = jnp.broadcast_to(augmented, (*augmented.shape[:3], 3))
        return dict(image=image, label=labels[index])

    def batches():
        step = start_step
        while True:
            # Python integers: positions of a long run exceed 32 bits.
            epoch, offset = divmod(step * batch_size, source.size)
            yield batch(images, labels, np.uint32(epoch), np.uint32(offset))
            step += 1

    return batches()


def check_resident(source: Any, pp: Preprocess, engine: str) -> None:
    """Refuses what `resident_batches` cannot do, before the run begins.

    Args:
      source: training data.
      pp: its preprocessing.
      engine: `config.parallel.engine`.

    Raises:
      InputError: another engine than pjit, or data that are not in memory.
    """
    if engine != "pjit":
        raise InputError(
            f"config.data.resident does not work with config.parallel.engine={engine!r}; set "
            "config.data.resident to False, or the engine to 'pjit'"
        )
    if not isinstance(source, ArraySource):
        raise InputError(
            f"config.data.resident wants a source in memory (digits, idx, npz), not {source.name}"
        )
    if not pp.has_batched:
        raise InputError(f"config.data.resident cannot do all of {str(pp)!r} in memory")


def _check(source: Any, pp: Preprocess) -> tuple[np.ndarray, Preprocess]:
    """Images to copy to the devices, and the operations that remain to be done there."""
    images, left = settled(source, pp)
    for op in left.ops:
        if not op.exact:
            known = ", ".join(name for name, kind in OPERATIONS.items() if kind.exact)
            raise InputError(f"config.data.resident: {op} is not done on devices; only {known} are")
    return images, dataclasses.replace(left)


def _examples(
    epoch: jax.Array, offset: jax.Array, batch: int, seed: int, size: int, shuffle: bool
) -> tuple[jax.Array, jax.Array]:
    """`order.examples` of `batch` positions in a row: uint32 (epoch, index)."""
    position = offset + jnp.arange(batch, dtype=jnp.uint32)
    epoch, position = epoch + position // np.uint32(size), position % np.uint32(size)
    if not shuffle:
        return epoch, position
    keys = order.round_keys(seed, epoch)
    a, b = order.radices(size)
    walk = functools.partial(order.feistel, keys=keys, a=a, b=b)
    # Values in [size, a * b) walk on along their cycle until they land inside.
    index = lax.while_loop(
        lambda x: (x >= size).any(), lambda x: jnp.where(x >= size, walk(x), x), walk(position)
    )
    return epoch, index


def _words(epoch: jax.Array, index: jax.Array, seed: int, count: int) -> jax.Array:
    """`order.words`: uint32 (b, count, 2)."""
    k0, k1 = order.epoch_key(seed, epoch, order.AUGMENT)
    counter = (index[:, None], jnp.arange(count, dtype=jnp.uint32)[None])
    return jnp.stack(order.threefry2x32((k0[:, None], k1[:, None]), counter), axis=-1)

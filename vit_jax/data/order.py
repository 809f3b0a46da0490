"""The order of examples and the randomness of each: pure functions of (seed, position).

Position p of the endless stream of training examples belongs to epoch p // size and
holds example permutation(seed, epoch)[p % size]. The permutation is a Feistel network on
mixed radices, evaluated for the positions asked for and never stored, so that any batch
of any epoch costs the same. Random words for augmentation come from the counter-based
generator Threefry 2x32, the one behind JAX's keys (Salmon et al., 2011).

All arithmetic is on uint32 arrays with plain operators; `mix32` and `threefry2x32` run
on JAX arrays as well as on NumPy's.
"""

import math
from typing import Any

import numpy as np

Array = Any  # of NumPy, or of JAX where a batch is made on the device

_ROUNDS = 8  # of the Feistel network; 4 are a strong pseudo-random permutation in theory
# Constants that give streams with the same seed different keys.
_ORDER, AUGMENT, _REPLACE = 0x6F726465, 0x61756D67, 0x7265706C

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

MAX_SIZE = 2**31  # examples in a source


def mix32(x):
    """A bijection of uint32 that scatters every input bit (Wellons, "lowbias32")."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def threefry2x32(key, counter):
    """Threefry 2x32 with 20 rounds.

    Args:
      key: two uint32 arrays.
      counter: two uint32 arrays that broadcast with the key's.

    Returns:
      Two uint32 arrays of random words.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(_PARITY))
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def seed_key(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A non-negative integer below 2**64 as a pair of uint32 words."""
    return np.array([seed & 0xFFFFFFFF], np.uint32), np.array([seed >> 32], np.uint32)


def epoch_key(seed: int, epoch: Array, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """The key of one stream of random words in each of the epochs given."""
    return threefry2x32(seed_key(seed), (epoch.astype(np.uint32), np.array([stream], np.uint32)))


def round_keys(seed: int, epoch: Array) -> np.ndarray:
    """Keys of the permutation's rounds: uint32 (rounds,) + epoch.shape."""
    return _rounds(epoch_key(seed, epoch, _ORDER), epoch.ndim)


def _rounds(key: tuple[np.ndarray, np.ndarray], ndim: int) -> np.ndarray:
    """Keys of the rounds of each of some permutations: uint32 (rounds,) + their shape."""
    rounds = np.arange(_ROUNDS, dtype=np.uint32).reshape((_ROUNDS,) + (1,) * ndim)
    return threefry2x32(key, (rounds, np.zeros_like(rounds)))[0]


def radices(size: int) -> tuple[int, int]:
    """Two integers a, b near sqrt(size) with a * b >= size."""
    a = math.isqrt(size - 1) + 1
    return a, -(-size // a)


def feistel(x, keys, a, b):
    """A bijection of [0, a * b): x = left * b + right, halves added to in turn.

    a and b are integers, or uint32 arrays like x.
    """
    rows, columns = np.uint32(a), np.uint32(b)
    left, right = x // columns, x % columns
    for i in range(0, len(keys), 2):
        left = (left + mix32(right ^ keys[i]) % rows) % rows
        right = (right + mix32(left ^ keys[i + 1]) % columns) % columns
    return left * b + right


def permutation(position: np.ndarray, epoch: Array | int, *, seed: int, size: int) -> np.ndarray:
    """permutation(seed, epoch)[position], elementwise and without storing it.

    Args:
      position: int array, in [0, size).
      epoch: int or an int array of the same shape.
      seed: seed of the run, non-negative.
      size: number of examples, below 2**31.

    Returns:
      int64 array like `position`: example indices in [0, size).
    """
    epochs, which = np.unique(np.broadcast_to(epoch, np.shape(position)), return_inverse=True)
    keys = round_keys(seed, epochs)[:, which.reshape(np.shape(position))]
    a, b = radices(size)
    x = feistel(np.asarray(position, np.uint32), keys, a, b)
    # Values in [size, a * b) are mapped again until they are below size.
    while (outside := x >= size).any():
        x[outside] = feistel(x[outside], keys[:, outside], a, b)
    return x.astype(np.int64)


def permutation_within(
    position: np.ndarray, epoch: np.ndarray, group: np.ndarray, *, seed: int, size: np.ndarray
) -> np.ndarray:
    """A permutation for each (epoch, group), elementwise and without storing it.

    Args:
      position: int array (b,), in [0, size).
      epoch, group: int arrays (b,), which permutation to use.
      seed: seed of the run, non-negative.
      size: number of members of each group, int array (b,), below 2**31.

    Returns:
      int64 array (b,): members in [0, size).
    """
    groups = (group.astype(np.uint32), np.ones_like(group, np.uint32))
    keys = _rounds(threefry2x32(epoch_key(seed, epoch, _ORDER), groups), 1)
    a = np.sqrt(size - 1).astype(np.int64) + 1
    b = -(-size // a)
    rows, columns = a.astype(np.uint32), b.astype(np.uint32)
    x = feistel(np.asarray(position, np.uint32), keys, rows, columns)
    while (outside := x >= size).any():
        x[outside] = feistel(x[outside], keys[:, outside], rows[outside], columns[outside])
    return x.astype(np.int64)


def examples(
    positions: np.ndarray, *, seed: int, size: int, shuffle: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The (epoch, index) at positions of the endless stream: two int64 arrays."""
    epoch, offset = np.divmod(np.asarray(positions, np.int64), size)
    index = permutation(offset, epoch, seed=seed, size=size) if shuffle else offset
    return epoch, index


def words(epoch: Array, index: np.ndarray, *, seed: int, count: int) -> np.ndarray:
    """Random words of each example, a pure function of (seed, epoch, index).

    Args:
      epoch, index: int arrays (b,).
      seed: seed of the run.
      count: number of pairs per example, one per random operation.

    Returns:
      uint32 array (b, count, 2).
    """
    epochs, which = np.unique(epoch, return_inverse=True)
    k0, k1 = epoch_key(seed, epochs, AUGMENT)
    key = (k0[which][:, None], k1[which][:, None])
    counter = (index.astype(np.uint32)[:, None], np.arange(count, dtype=np.uint32)[None])
    return np.stack(threefry2x32(key, counter), axis=-1)


def replacement(epoch: int, index: int, attempt: int, *, seed: int, size: int) -> int:
    """The index of the example that replaces an unreadable one."""
    key = epoch_key(seed, np.array([epoch]), _REPLACE)
    counter = np.array([index], np.uint32), np.array([attempt], np.uint32)
    return int(threefry2x32(key, counter)[0][0]) % size

"""Fingerprints of arrays: independent of the layout, changed by any flipped bit.

The fingerprint of an array is

    sum over i of  scramble(word[i] xor scramble(i))   modulo 2^32

where word[i] is the bit pattern of element i in C order as an unsigned integer of 32 bits
(elements of eight bytes are two words, in the machine's order) and `scramble` the last steps
of the hash function MurmurHash3 (public domain), which map the 2^32 integers one to one.
Sums of integers come out the same in any order, so it does not matter how devices and
processes share the array. A change within one word always shows, since `scramble` has an
inverse; several changes stay hidden with a chance of 2^-32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vit_jax.parallel.rules import MIN_SHARD_ELEMENTS
from vit_jax.trees import path_name

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}  # by bytes of an element


def fingerprints(tree: Any) -> dict[str, int]:
    """Path -> fingerprint of every array in a pytree, computed on the arrays' own devices.

    Every process that holds a part of the arrays must call it; all get the same result.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # Small arrays are fetched to the host, to avoid one compilation for each shape.
    asked = [leaf if _is_small(leaf) else _on_devices(leaf) for _, leaf in leaves]
    return {
        path_name(path): int(_on_host(found) if _is_small(leaf) else found)
        for (path, leaf), found in zip(leaves, jax.device_get(asked))
    }


def _is_small(array: jax.Array) -> bool:
    return array.size < MIN_SHARD_ELEMENTS and array.is_fully_replicated


def _on_host(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array).reshape(-1)
    words = array.view(_UNSIGNED[array.dtype.itemsize]).astype(np.uint32)
    return _fingerprint(words, np.arange(words.size, dtype=np.uint32))


@jax.jit  # one array at a time: parameters, averages and moments share what is compiled
def _on_devices(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool:
        array = array.astype(jnp.uint8)
    words = lax.bitcast_convert_type(array, _UNSIGNED[array.dtype.itemsize]).astype(jnp.uint32)
    return _fingerprint(words, _positions(words.shape))


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Indices in C order, built from one iota per axis, so that they shard like the array."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        steps = lax.broadcasted_iota(jnp.uint32, shape, axis)
        index += steps * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def _fingerprint(words: Any, positions: Any) -> Any:
    return _scramble(words ^ _scramble(positions)).sum(dtype=np.uint32)


def _scramble(x: Any) -> Any:
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

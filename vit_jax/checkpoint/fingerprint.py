"""Fingerprints of arrays: the same in every layout, another after any flipped bit.

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
from jax import lax

from vit_jax.parallel.rules import path_name

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def fingerprints(tree: Any) -> dict[str, int]:
    """Path -> fingerprint of every array in a pytree, computed where the arrays are.

    All processes that share the arrays have to call it, and get the same.
    """
    found = jax.device_get(_fingerprints(tree))
    return {path_name(path): int(x) for path, x in jax.tree_util.tree_leaves_with_path(found)}


@jax.jit
def _fingerprints(tree):
    return jax.tree.map(_fingerprint, tree)


def _fingerprint(array: jax.Array) -> jax.Array:
    words = _words(array)
    return jnp.sum(_scramble(words ^ _scramble(_positions(words.shape))), dtype=jnp.uint32)


def _words(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool:
        return array.astype(jnp.uint32)
    unsigned = _UNSIGNED[array.dtype.itemsize]
    return lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Places in C order, from an iota along each axis, so that they shard as the array does."""
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        steps = lax.broadcasted_iota(jnp.uint32, shape, axis)
        index += steps * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def _scramble(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)

"""Histograms of parameters and gradients, counted on the devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax

from vit_jax.train.log.trackers import Histogram

# Limits between bins: powers of two from 2^-30 to 2^10, of both signs, and zero.
_POWERS = 2.0 ** np.arange(-30, 11)
LIMITS = np.concatenate([-_POWERS[::-1], [0.0], _POWERS]).astype(np.float32)
HIGHEST = float(np.finfo(np.float32).max)


def count(kind: str, tree: Any) -> dict[str, jax.Array]:
    """Counts the values of each parameter below each of `LIMITS`; a pure function.

    Args:
      kind: first part of the names, such as "parameters".
      tree: nested dicts of arrays of any shape and layout.

    Returns:
      kind/path -> int32 (len(LIMITS) + 1,): the numbers of values below each limit, then the
      number of all values. Values that are not numbers count among all values only.
    """
    return {
        f"{kind}/{path}": jnp.append(_below(leaf), jnp.int32(leaf.size))
        for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()
    }


def _below(leaf: jax.Array) -> jax.Array:
    # One limit after the other: memory for all comparisons at once would be 83 times the array.
    return lax.map(lambda limit: jnp.sum(leaf < limit, dtype=jnp.int32), jnp.asarray(LIMITS))


def from_counts(below: np.ndarray) -> Histogram:
    """The histogram of one result of `count`; bins without values at both ends are left out."""
    counts = np.diff(below, prepend=0)
    limits = np.append(LIMITS.astype(np.float64), HIGHEST)
    used = np.flatnonzero(counts)
    if not used.size:
        return Histogram(limits[:1], counts[:1])
    first, last = max(used[0] - 1, 0), used[-1] + 1
    return Histogram(limits[first:last], counts[first:last])

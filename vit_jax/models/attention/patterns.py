"""The patterns of Sparse Transformer (1904.10509, section 4.3), computed by block products.

Patches are a sequence in raster order, cut into blocks of `stride`. A pattern has two sets of keys:

| | first set | second set |
|---|---|---|
| strided | at most `stride` places away | a multiple of `stride` places away |
| fixed | in the same block | the last `summary` places of every block |

Causal, a query sees only keys that do not come after it, as published; otherwise all keys of the
sets, which on a grid with `stride` columns are rows around the query, its column, its row, and
the last columns. Each set is a matrix product without gathers; several sets share one softmax.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vit_jax.models.attention.windows import HIDDEN, Cut, with_prefix
from vit_jax.models.layers import dropout, fold_in

NAMES = ("strided", "fixed")
Places = Any  # places in the sequence, an array of JAX or of NumPy; or booleans for them


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A pattern on a sequence.

    Attributes:
      name: strided or fixed.
      length: number of patches (n), a multiple of `stride`.
      stride: length of a block.
      summary: for fixed, number of places at the end of each block that all queries see.
      causal: whether keys after the query are hidden.
    """

    name: str
    length: int
    stride: int
    summary: int
    causal: bool

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.length // self.stride

    def keys(self, which: int) -> "KeySet":
        """The first set of keys (0) or the second (1)."""
        if which == 0:
            return Near(self)
        return Columns(self) if self.name == "strided" else Summaries(self)

    def alone(self, place: np.ndarray) -> np.ndarray:
        """Whether the second set is empty for queries at these places.

        Causal and fixed, the first block has no summary before its end. These queries see
        themselves.
        """
        early = place < self.stride - self.summary
        return early & (self.name == "fixed" and self.causal)

    def counts(self, sets: Sequence[int]) -> np.ndarray:
        """Number of keys that each query sees in the union of sets: int (n,)."""
        place = np.arange(self.length)
        row, column, whole = place // self.stride, place % self.stride, np.ones_like(place)
        near: np.ndarray
        far: np.ndarray
        both: np.ndarray
        if self.name == "strided":
            near = 1 + np.minimum(place, self.stride)
            far, both = row + 1, 1 + (row > 0)
            if not self.causal:
                near = near + np.minimum(self.length - 1 - place, self.stride)
                far, both = self.blocks * whole, both + (row < self.blocks - 1)
        elif self.causal:
            own = np.clip(column + 1 - (self.stride - self.summary), 0, None)
            near, far, both = column + 1, row * self.summary + own, own
        else:
            near, far = self.stride * whole, self.blocks * self.summary * whole
            both = self.summary * whole
        if tuple(sets) == (0, 1):
            return near + far - both
        return near if tuple(sets) == (0,) else far + self.alone(place)


@dataclasses.dataclass(frozen=True)
class Sees:
    """Which tokens attend to which, as a mask for `fused.splash`; see `sparse_attention`.

    Attributes:
      pattern: the pattern.
      sets: the sets that every query sees.
      before: number of tokens before the patches.
    """

    pattern: Pattern
    sets: tuple[int, ...]
    before: int

    def __call__(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Places of queries (Q, 1) and keys (1, K) among the tokens -> bool (Q, K)."""
        query, key = queries - self.before, keys - self.before
        found = np.zeros(np.broadcast_shapes(query.shape, key.shape), bool)
        for which in self.sets:
            found |= np.asarray(self.pattern.keys(which).contains(query, key))
        if self.pattern.causal:
            found &= key <= query
        if self.sets == (1,):
            found |= (query == key) & self.pattern.alone(query)
        return found | (query < 0) | (key < 0)


class KeySet:
    """A set of keys as products of blocks; a query has W of them, some of which may be hidden."""

    def __init__(self, pattern: Pattern):
        self.pattern = pattern

    def places(self) -> jax.Array:
        """The place of each key in the sequence, which may lie beyond it: int (n, W)."""
        raise NotImplementedError

    def contains(self, query: Places, key: Places) -> Places:
        """Whether places of keys are in the set of places of queries, causality aside."""
        raise NotImplementedError

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """(B, n, H, d) each -> logits (B, H, n, W) in float32."""
        raise NotImplementedError

    def values(self, weights: jax.Array, value: jax.Array) -> jax.Array:
        """(B, H, n, W), (B, n, H, d) -> (B, n, H, d)."""
        raise NotImplementedError

    def seen(self) -> jax.Array:
        """Whether a query sees a key: bool (n, W)."""
        query, key = jnp.arange(self.pattern.length)[:, None], self.places()
        inside = (key >= 0) & (key < self.pattern.length) & self.contains(query, key)
        return inside & (key <= query) if self.pattern.causal else inside

    def _cut(self, x: jax.Array) -> jax.Array:
        """(B, n, H, d) -> (B, blocks, stride, H, d)."""
        return x.reshape(x.shape[0], self.pattern.blocks, self.pattern.stride, *x.shape[2:])

    def _spread(self, x: jax.Array) -> jax.Array:
        """(B, H, n, W) -> (B, H, blocks, stride, W)."""
        return x.reshape(*x.shape[:2], self.pattern.blocks, self.pattern.stride, x.shape[-1])


def _logits(spec: str, query: jax.Array, key: jax.Array) -> jax.Array:
    scores = jnp.einsum(spec, query, key, preferred_element_type=jnp.float32)
    return scores.reshape(*scores.shape[:2], -1, scores.shape[-1])


class Near(KeySet):
    """Keys near the query: of its block, and for strided of the blocks beside it."""

    def __init__(self, pattern: Pattern):
        super().__init__(pattern)
        halo = pattern.stride if pattern.name == "strided" else 0
        # Causal, the keys after the block are cut off.
        self.cut = Cut(pattern.length, pattern.stride, halo)
        self.span = self.cut.span - (halo if pattern.causal else 0)

    def places(self) -> jax.Array:
        start = jnp.arange(self.pattern.length)[:, None] // self.pattern.stride
        return start * self.pattern.stride - self.cut.halo + jnp.arange(self.span)

    def contains(self, query: Places, key: Places) -> Places:
        if self.pattern.name == "strided":
            return abs(query - key) <= self.pattern.stride
        return query // self.pattern.stride == key // self.pattern.stride

    def _around(self, x: jax.Array) -> jax.Array:
        """(B, n, H, d) -> (B, blocks, W, H, d)."""
        return lax.slice_in_dim(self.cut.windows(x, 1), 0, self.span, axis=2)

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        return _logits("bmqhd,bmkhd->bhmqk", self._cut(query), self._around(key))

    def values(self, weights: jax.Array, value: jax.Array) -> jax.Array:
        y = jnp.einsum("bhmqk,bmkhd->bmqhd", self._spread(weights), self._around(value))
        return y.reshape(value.shape)


class Columns(KeySet):
    """Keys a multiple of the stride away: on a grid of `stride` columns, those of the column."""

    def places(self) -> jax.Array:
        column = jnp.arange(self.pattern.length)[:, None] % self.pattern.stride
        return column + self.pattern.stride * jnp.arange(self.pattern.blocks)

    def contains(self, query: Places, key: Places) -> Places:
        return query % self.pattern.stride == key % self.pattern.stride

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        return _logits("bmlhd,bklhd->bhmlk", self._cut(query), self._cut(key))

    def values(self, weights: jax.Array, value: jax.Array) -> jax.Array:
        y = jnp.einsum("bhmlk,bklhd->bmlhd", self._spread(weights), self._cut(value))
        return y.reshape(value.shape)


class Summaries(KeySet):
    """The keys at the end of every block."""

    def places(self) -> jax.Array:
        first = self.pattern.stride - self.pattern.summary
        starts = self.pattern.stride * jnp.arange(self.pattern.blocks)[:, None]
        places = (starts + first + jnp.arange(self.pattern.summary)).reshape(-1)
        return jnp.broadcast_to(places, (self.pattern.length, len(places)))

    def contains(self, query: Places, key: Places) -> Places:
        del query
        return key % self.pattern.stride >= self.pattern.stride - self.pattern.summary

    def _ends(self, x: jax.Array) -> jax.Array:
        """(B, n, H, d) -> (B, W, H, d)."""
        stride = self.pattern.stride
        ends = lax.slice_in_dim(self._cut(x), stride - self.pattern.summary, stride, axis=2)
        return ends.reshape(ends.shape[0], -1, *ends.shape[3:])

    def scores(self, query: jax.Array, key: jax.Array) -> jax.Array:
        return _logits("bqhd,bkhd->bhqk", query, self._ends(key))

    def values(self, weights: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.einsum("bhqk,bkhd->bqhd", weights, self._ends(value))


def sparse_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    pattern: Pattern,
    sets: Sequence[int],
    *,
    rate: float = 0.0,
    keys: jax.Array | None = None,
    return_weights: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Attention to the union of sets of a pattern, and to the tokens before the patches.

    The tokens before the patches attend to all tokens.

    Args:
      query, key, value: (B, N, H, d); the last `pattern.length` tokens are the patches.
      pattern: the pattern.
      sets: (0,), (1,) or (0, 1): the sets that every query sees.
      rate: dropout rate of attention weights.
      keys: (B,) dropout keys, None in evaluation.
      return_weights: also return the weights.

    Returns:
      (B, N, H, d) and the weights (B, H, N, N) in float32 or None.
    """
    before, scale = query.shape[1] - pattern.length, query.shape[-1] ** -0.5
    own_query, own_key, own_value = (x[:, before:] for x in (query, key, value))
    own_query = own_query * scale
    used = [pattern.keys(which) for which in sets]
    scores, seen = [], []
    for i, each in enumerate(used):
        visible = each.seen()
        at = jnp.arange(pattern.length)[:, None]
        for earlier in used[:i]:  # a key in both sets counts once
            visible = visible & ~earlier.contains(at, each.places())
        seen.append(visible)
        scores.append(jnp.where(visible, each.scores(own_query, own_key), HIDDEN))
    alone = pattern.alone(np.arange(pattern.length))
    itself = tuple(sets) == (1,) and bool(alone.any())
    if itself:
        own = jnp.einsum("bnhd,bnhd->bhn", own_query, own_key, preferred_element_type=jnp.float32)
        scores.append(jnp.where(alone, own, HIDDEN)[..., None])
    if before:
        scores.append(
            jnp.einsum(
                "bqhd,bkhd->bhqk", own_query, key[:, :before], preferred_element_type=jnp.float32
            )
        )
    widths = [each.shape[-1] for each in scores]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    dropped = dropout(weights, rate, fold_in(keys, 0)).astype(value.dtype)
    parts = lax.split(dropped, widths, axis=3)
    y = sum(each.values(part, own_value) for each, part in zip(used, parts))
    if itself:
        y = y + jnp.einsum("bhnk,bnhd->bnhd", parts[len(used)], own_value)
    if before:
        y = y + jnp.einsum("bhqk,bkhd->bqhd", parts[-1], value[:, :before])
    whole = None
    if return_weights:
        whole = _whole(lax.split(weights, widths, axis=3), used, seen, itself, before)
    return with_prefix(query, key, value, before, jnp.asarray(y), whole, rate=rate, keys=keys)


def _whole(
    parts: Sequence[jax.Array],
    used: Sequence[KeySet],
    seen: Sequence[jax.Array],
    itself: bool,
    before: int,
) -> jax.Array:
    """Weights by set -> those of patches among all tokens: (B, H, n, N)."""
    batch, heads, length, _ = parts[0].shape
    whole = jnp.zeros((batch, heads, length, before + length))
    rows = jnp.arange(length)[:, None]
    for each, part, visible in zip(used, parts, seen):
        places = before + jnp.clip(each.places(), 0, length - 1)
        whole = whole.at[:, :, rows, places].add(jnp.where(visible, part, 0.0))
    if itself:
        whole = whole.at[:, :, rows, before + rows].add(parts[len(used)])
    if before:
        whole = whole.at[..., :before].set(parts[-1])
    return whole

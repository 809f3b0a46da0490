"""Local attention on a grid: blocks of queries, each with the keys around it, without gathers.

Blocks and windows are made by padding, static slices and reshapes, attention is one product for
each block. Batch and heads can be split over devices without communication. Keys beyond the
image are padding: their logits are lowered by 1e30, so that they do not count in the softmax.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vit_jax.models.attention.self_attention import attend
from vit_jax.models.layers import dropout, fold_in

HIDDEN = -1e30


@dataclasses.dataclass(frozen=True)
class Cut:
    """An axis of the grid, cut into blocks of queries; each has the keys of its window.

    Attributes:
      size: number of patches along the axis.
      block: number of queries in a block; the last block may have fewer.
      halo: number of keys before the block in its window.
      after: number of keys after the block in its window; None: as many as before it.
      radius: largest distance of a key from its query; None: any within the window.
    """

    size: int
    block: int
    halo: int = 0
    radius: int | None = None
    after: int | None = None

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.size // self.block)

    @property
    def span(self) -> int:
        """Number of keys in a window."""
        return self.block + self.halo + (self.halo if self.after is None else self.after)

    def offsets(self) -> np.ndarray:
        """Position of each key of a window minus that of each query: (block, span)."""
        return np.arange(self.span) - self.halo - np.arange(self.block)[:, None]

    def seen(self) -> np.ndarray:
        """Whether a query sees a key of its window: bool (count, block, span)."""
        start = self.block * np.arange(self.count)[:, None, None]
        place = start - self.halo + np.arange(self.span)
        radius = self.size + self.span if self.radius is None else self.radius
        return (place >= 0) & (place < self.size) & (abs(self.offsets()) <= radius)

    def pairs(self, highest: int | None = None, lowest: int | None = None) -> int:
        """Number of pairs of a query and a key that it sees, padding left out.

        `highest` and `lowest` limit the position of the key minus that of the query.
        """
        offsets = self.offsets()
        seen = self.seen() & (offsets <= self.size if highest is None else offsets <= highest)
        seen &= True if lowest is None else offsets >= lowest
        return int(seen.reshape(self.count * self.block, self.span)[: self.size].sum())

    def queries(self, x: jax.Array, axis: int) -> jax.Array:
        """The axis, of length `size`, as blocks: (..., count, block, ...)."""
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, self.count * self.block - self.size)
        return self._blocks(jnp.pad(x, padding), axis)

    def joined(self, x: jax.Array, axis: int) -> jax.Array:
        """The inverse of `queries`."""
        shape = (*x.shape[:axis], self.count * self.block, *x.shape[axis + 2 :])
        return lax.slice_in_dim(x.reshape(shape), 0, self.size, axis=axis)

    def windows(self, x: jax.Array, axis: int) -> jax.Array:
        """The axis, of length `size`, as windows: (..., count, span, ...), zeros beyond it."""
        steps = -(-self.span // self.block)
        length = (self.count + steps - 1) * self.block
        padding = [(0, 0)] * x.ndim
        padding[axis] = (self.halo, length - self.halo - self.size)
        x = jnp.pad(x, padding)
        parts = []
        for step in range(steps):
            start = step * self.block
            part = lax.slice_in_dim(x, start, start + self.count * self.block, axis=axis)
            width = min(self.block, self.span - start)
            parts.append(lax.slice_in_dim(self._blocks(part, axis), 0, width, axis=axis + 1))
        return jnp.concatenate(parts, axis=axis + 1)

    def _blocks(self, x: jax.Array, axis: int) -> jax.Array:
        return x.reshape(*x.shape[:axis], self.count, self.block, *x.shape[axis + 1 :])


Cuts = tuple[Cut, Cut]  # of the rows and of the columns
# Queries (B, I, J, H, a, c, d), scaled like those of attention, in I x J blocks of a x c -> what is
# added to the logits for the row and for the column of a key: (B, I, J, H, a, c, w) and
# (B, I, J, H, a, c, x), where a window has w x x keys.
Relative = Callable[[jax.Array, Cuts], tuple[jax.Array, jax.Array]]


def cut(size: int, block: int, halo: int) -> Cut:
    """Blocks with a halo; a block that holds the whole axis needs none."""
    block = min(block, size)
    return Cut(size, block, halo if block < size else 0)


def centred_cuts(grid: tuple[int, int], radius: int, head_width: int) -> Cuts:
    """Cuts for windows centred on each query, with the blocks that need the least memory.

    Larger blocks compute more products that are hidden afterwards, smaller ones copy each key
    more often. The sum of logits and copied keys and values is the least.

    Args:
      grid: rows and columns.
      radius: largest distance in rows and in columns.
      head_width: width of a head (d).
    """

    def cuts(block: int) -> Cuts:
        rows, columns = (cut(size, block, radius) for size in grid)
        return dataclasses.replace(rows, radius=radius), dataclasses.replace(columns, radius=radius)

    def memory(block: int) -> int:
        rows, columns = cuts(block)
        blocks = rows.count * columns.count
        return blocks * rows.span * columns.span * (rows.block * columns.block + 2 * head_width)

    return cuts(min(range(1, max(grid) + 1), key=memory))


def pairs(cuts: Cuts, prefix: int, causal: bool = False) -> int:
    """Number of pairs of a query and a key that it sees, for `prefix` global tokens."""
    rows, columns = cuts
    patches = rows.size * columns.size
    if causal:  # keys of rows above, then those of the same row up to the query
        above = rows.pairs(highest=-1) * columns.pairs()
        return above + rows.pairs(highest=0, lowest=0) * columns.pairs(highest=0)
    return rows.pairs() * columns.pairs() + prefix * (2 * patches + prefix)


def local_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cuts: Cuts,
    *,
    relative: Relative | None = None,
    causal: bool = False,
    rate: float = 0.0,
    keys: jax.Array | None = None,
    return_weights: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Attention of each patch to the patches of its window and to the tokens before the patches.

    The tokens before the patches (P) attend to all tokens.

    Args:
      query, key, value: (B, N, H, d).
      cuts: windows on the grid of the last N - P tokens.
      relative: see `Relative`.
      causal: whether a patch only sees itself and those before it, in raster order.
      rate: dropout rate of attention weights.
      keys: (B,) dropout keys, None in evaluation.
      return_weights: also return the weights.

    Returns:
      (B, N, H, d) and the weights (B, H, N, N) in float32 or None.
    """
    rows, columns = cuts
    before = query.shape[1] - rows.size * columns.size
    scaled = query[:, before:] * query.shape[-1] ** -0.5
    queries = _arranged(scaled, cuts, Cut.queries)
    bias = _bias(queries, cuts, relative, causal)
    queries = queries.reshape(*queries.shape[:4], -1, queries.shape[-1])
    around = [_with_prefix(_arranged(x[:, before:], cuts, Cut.windows), x[:, :before])
              for x in (key, value)]  # fmt: skip
    scores = jnp.einsum(
        "bijhqd,bijhkd->bijhqk", queries, around[0], preferred_element_type=jnp.float32
    )
    if bias is not None:
        scores = scores + jnp.pad(bias, [(0, 0)] * 5 + [(before, 0)])
    weights = jax.nn.softmax(scores, axis=-1)
    dropped = dropout(weights, rate, fold_in(keys, 0)).astype(value.dtype)
    y = _joined(jnp.einsum("bijhqk,bijhkd->bijhqd", dropped, around[1]), cuts)
    whole = _spread(weights, cuts, before) if return_weights else None
    return with_prefix(query, key, value, before, y, whole, rate=rate, keys=keys)


def with_prefix(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    before: int,
    y: jax.Array,
    weights: jax.Array | None,
    *,
    rate: float,
    keys: jax.Array | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Puts the prefix tokens, which see everything, before the patches.

    Args:
      query, key, value: (B, N, H, d) of all tokens.
      before: number of prefix tokens.
      y: (B, N - before, H, d), the result of the patches.
      weights: (B, H, N - before, N), their attention weights; None: not asked for.
      rate, keys: dropout of attention weights, as in `attend`.

    Returns:
      (B, N, H, d), and the weights (B, H, N, N) or None.
    """
    if not before:
        return y, weights
    first, own = attend(
        query[:, :before],
        key,
        value,
        rate=rate,
        keys=fold_in(keys, 1),
        return_weights=weights is not None,
    )
    if own is not None and weights is not None:
        weights = jnp.concatenate([own, weights], axis=2)
    return jnp.concatenate([first, y], axis=1), weights


def _arranged(
    x: jax.Array, cuts: Cuts, cut_axis: Callable[[Cut, jax.Array, int], jax.Array]
) -> jax.Array:
    """Patches (B, R * C, H, d) in blocks or windows: (B, I, J, H, a, c, d)."""
    rows, columns = cuts
    x = x.reshape(x.shape[0], rows.size, columns.size, *x.shape[2:])
    x = cut_axis(columns, cut_axis(rows, x, 1), 3)  # (B, I, a, J, c, H, d)
    return x.transpose(0, 1, 3, 5, 2, 4, 6)


def _joined(y: jax.Array, cuts: Cuts) -> jax.Array:
    """(B, I, J, H, a * c, d) -> patches (B, R * C, H, d)."""
    rows, columns = cuts
    y = y.reshape(*y.shape[:4], rows.block, columns.block, y.shape[-1])
    y = y.transpose(0, 1, 4, 2, 5, 3, 6)
    y = columns.joined(rows.joined(y, 1), 2)
    return y.reshape(y.shape[0], -1, *y.shape[3:])


def _with_prefix(windows: jax.Array, prefix: jax.Array) -> jax.Array:
    """The tokens before the patches (B, P, H, d), then each window: (B, I, J, H, P + w * x, d)."""
    windows = windows.reshape(*windows.shape[:4], -1, windows.shape[-1])
    if not prefix.shape[1]:
        return windows
    shape = (*windows.shape[:4], prefix.shape[1], prefix.shape[3])
    tokens = jnp.broadcast_to(prefix.transpose(0, 2, 1, 3)[:, None, None], shape)
    return jnp.concatenate([tokens, windows], axis=4)


def _bias(
    queries: jax.Array, cuts: Cuts, relative: Relative | None, causal: bool
) -> jax.Array | None:
    """What is added to the logits: (B or 1, I, J, H or 1, a * c, w * x); None: nothing.

    The masks of rows and columns are added up where they are used: one for all pairs would be
    a large constant of the program.
    """
    rows, columns = cuts
    seen = rows.seen(), columns.seen()
    if relative is None and not causal and seen[0].all() and seen[1].all():
        return None
    by_row = jnp.where(seen[0], 0.0, HIDDEN)[None, :, None, None, :, None]
    by_column = jnp.where(seen[1], 0.0, HIDDEN)[None, None, :, None, None]
    if relative is not None:
        row_logits, column_logits = relative(queries, cuts)
        by_row, by_column = by_row + row_logits, by_column + column_logits
    bias = by_row[..., :, None] + by_column[..., None, :]
    if causal:
        down, right = rows.offsets()[:, None, :, None], columns.offsets()[None, :, None, :]
        bias = jnp.where((down < 0) | ((down == 0) & (right <= 0)), bias, HIDDEN)
    return bias.reshape(*bias.shape[:4], rows.block * columns.block, rows.span * columns.span)


def _spread(weights: jax.Array, cuts: Cuts, before: int) -> jax.Array:
    """Weights (B, I, J, H, a * c, P + w * x) -> those of all patches (B, H, R * C, N)."""
    rows, columns = cuts
    own, windows = weights[..., :before], weights[..., before:]
    windows = windows.reshape(
        *windows.shape[:4], rows.block, columns.block, rows.span, columns.span
    )
    whole = jnp.einsum("bijhacwx,iwr,jxs->bijhacrs", windows, *(_places(each) for each in cuts))
    whole = whole.reshape(*whole.shape[:4], -1, rows.size * columns.size)
    whole = _joined(jnp.concatenate([own, whole], axis=-1), cuts)
    return whole.transpose(0, 2, 1, 3)


def _places(each: Cut) -> np.ndarray:
    """1 where a key of a window is at a place of the axis: (count, span, size)."""
    start = each.block * np.arange(each.count)[:, None] - each.halo
    place = start + np.arange(each.span)
    return (place[..., None] == np.arange(each.size)).astype(np.float32)

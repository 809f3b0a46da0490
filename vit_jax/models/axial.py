"""Axial attention: along the rows and the columns of the grid in turn (appendix D.5)."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.attention import Bias, SelfAttention

Grid = tuple[int, int]


class AxialAttention(SelfAttention):
    """Self-attention of patches that stand in the same row, or in the same column.

    Parameters are those of self-attention: every row, or column, is a short sequence.
    """

    def __init__(self, *args: Any, grid: Grid, axis: str, **options: Any):
        super().__init__(*args, **options)
        self.grid = grid
        self.axis = axis  # row or column

    def __call__(
        self,
        x: jax.Array,
        *,
        bias: Bias | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """(B, N, D) -> (B, N, D) and, if asked for, the weights (B, H, N, N), 0 between lines."""
        lines = self._cut(x)
        if keys is not None:
            count = self.grid[0] if self.axis == "row" else self.grid[1]
            keys = jax.vmap(lambda key: jax.random.split(key, count))(keys).reshape(-1)
        y, weights = super().__call__(lines, bias=bias, keys=keys, return_weights=return_weights)
        return self._join(y), self._spread(weights) if return_weights else None

    def _cut(self, x: jax.Array) -> jax.Array:
        """(B, R * C, D) -> (B * R, C, D), or (B * C, R, D)."""
        batch, _, width = x.shape
        x = x.reshape(batch, *self.grid, width)
        if self.axis == "column":
            x = x.swapaxes(1, 2)
        return x.reshape(-1, *x.shape[2:])

    def _join(self, lines: jax.Array) -> jax.Array:
        """The inverse of `_cut`."""
        rows, columns = self.grid
        if self.axis == "row":
            return lines.reshape(-1, rows * columns, lines.shape[-1])
        lines = lines.reshape(-1, columns, rows, lines.shape[-1])
        return lines.swapaxes(1, 2).reshape(-1, rows * columns, lines.shape[-1])

    def _spread(self, weights: jax.Array) -> jax.Array:
        """Weights of all lines (B * L, H, n, n) among all patches (B, H, N, N)."""
        rows, columns = self.grid
        lines, others = (rows, columns) if self.axis == "row" else (columns, rows)
        weights = weights.reshape(-1, lines, *weights.shape[1:])
        spec = "brhck,rs->bhrcsk" if self.axis == "row" else "bchrs,ck->bhrcsk"
        weights = jnp.einsum(spec, weights, jnp.eye(lines))
        return weights.reshape(*weights.shape[:2], lines * others, lines * others)

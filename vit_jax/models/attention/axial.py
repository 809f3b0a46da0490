"""Axial attention: along the rows, then along the columns of the grid (appendix D.5)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models.attention.self_attention import (
    ATTENTION_KINDS,
    AttentionKind,
    Bias,
    SelfAttention,
    attention_options,
)
from vit_jax.models.block import Intermediates, create_block
from vit_jax.models.layers import fold_in
from vit_jax.models.positions.rotary import Rotation
from vit_jax.models.vit_config import ViTConfig

Grid = tuple[int, int]


class AxialAttention(SelfAttention):
    """Self-attention among the patches of each row, or of each column.

    It has the parameters of self-attention, applied to every row or column as a short sequence.
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
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
        layer: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """(B, N, D) -> (B, N, D) and, if asked for, the weights (B, H, N, N).

        Weights between different rows (or columns) are 0.
        """
        assert rotation is None  # `Axial.check` refuses rotary embeddings
        del layer
        lines = self._cut(x)
        if keys is not None:
            count = self.grid[0] if self.axis == "row" else self.grid[1]
            keys = jax.vmap(lambda key: jax.random.split(key, count))(keys).reshape(-1)
        y, weights = super().__call__(lines, bias=bias, keys=keys, return_weights=return_weights)
        return self._join(y), None if weights is None else self._spread(weights)

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
        """Weights of all lines (B * L, H, n, n) -> weights among all patches (B, H, N, N)."""
        rows, columns = self.grid
        lines, others = (rows, columns) if self.axis == "row" else (columns, rows)
        weights = weights.reshape(-1, lines, *weights.shape[1:])
        spec = "brhck,rs->bhrcsk" if self.axis == "row" else "bchrs,ck->bhrcsk"
        weights = jnp.einsum(spec, weights, jnp.eye(lines))
        return weights.reshape(*weights.shape[:2], lines * others, lines * others)


class AxialBlock(nnx.Module):
    """Row attention and an MLP, then column attention and an MLP (appendix D.5)."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        def attention(axis: str):
            options = dict(attention_options(config), grid=config.grid, axis=axis)
            return lambda rngs: AxialAttention(config.width, config.num_heads, rngs=rngs, **options)

        self.row = create_block(config, attention("row"), rngs=rngs)
        self.column = create_block(config, attention("column"), rngs=rngs)

    def normed(self, x: jax.Array) -> jax.Array:
        """See `Block.normed`."""
        row: Any = self.row
        return row.normed(x)

    def __call__(
        self,
        x: jax.Array,
        *,
        drop_rate: jax.Array,
        bias: Bias | None = None,
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
    ) -> tuple[jax.Array, Intermediates]:
        """Encodes tokens as `Block`; returns `row/attention`, `column/attention`, `output`."""
        options = dict(bias=bias, rotation=rotation, return_weights=return_weights)
        row_block, column_block = (
            functools.partial(block, drop_rate=drop_rate, **options)
            for block in (self.row, self.column)
        )
        x, row = row_block(x, keys=fold_in(keys, 0))
        x, column = column_block(x, keys=fold_in(keys, 1))
        if not return_weights:
            return x, {}
        return x, {
            "row/attention": row["attention"],
            "column/attention": column["attention"],
            "output": x,
        }


@ATTENTION_KINDS.register("axial")
@dataclasses.dataclass(frozen=True)
class Axial(AttentionKind):
    """Rows, then columns, each attention with its own MLP (appendix D.5)."""

    branches = 2

    def check(self, config: ViTConfig) -> None:
        """Refuses tokens outside the grid, and what depends on the offset of two patches."""
        if config.prefix_tokens:
            raise InputError(
                "model.attention_kind 'axial': a class token or register stands in no row and no "
                "column; set model.head to 'gap' or 'map', model.registers to 0"
            )
        if config.posemb == "relative":
            raise InputError(
                "model.attention_kind 'axial' needs another model.posemb than 'relative'"
            )
        for name, usual in (("rotary", "none"), ("position_bias", "none"), ("block", "sequential")):
            if getattr(config, name) != usual:
                raise InputError(f"model.attention_kind 'axial' needs model.{name} {usual!r}")

    def create_block(self, config: ViTConfig, rngs: nnx.Rngs) -> AxialBlock:
        """A block of the encoder."""
        return AxialBlock(config, rngs=rngs)

    def macs(self, config: ViTConfig) -> int:
        """Multiply-accumulates: a query meets the keys of its row, then those of its column."""
        return 2 * config.num_tokens * sum(config.grid) * config.width

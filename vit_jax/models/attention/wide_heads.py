"""Attention by the offset of two patches, with heads of the model's full width (1911.03584).

Every head averages whole tokens; one matrix product joins what the heads have averaged. Scores
depend on offsets alone, or on queries and keys too. With them a layer can express a convolution.
"""

import abc
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from vit_jax.errors import InputError
from vit_jax.models.attention.local import check_number, check_parts, check_switch, refuse_bias
from vit_jax.models.attention.self_attention import ATTENTION_KINDS, AttentionKind, Bias
from vit_jax.models.block import create_block
from vit_jax.models.forms.remat import saved
from vit_jax.models.layers import Dense, dropout, unstack
from vit_jax.models.positions.embedding import align_offsets
from vit_jax.models.positions.rotary import Rotation
from vit_jax.models.vit_config import ViTConfig

Grid = tuple[int, int]


class Scores(nnx.Module):
    """Base class: logits of every pair of patches from their offset, key minus query."""

    def __call__(self) -> jax.Array:
        """(H, N, N) in float32."""
        raise NotImplementedError


class QuadraticScores(Scores):
    """A Gaussian per head: -a^2 / 2 (|offset|^2 - 2 offset . centre) (1911.03584, section 3).

    Attributes:
      centres: (H, 2), offset in rows and columns that gets most attention; from N(0, 2^2).
      spreads: (H,), inverse of the width in patches (a); from N(1, 0.01^2).
    """

    def __init__(self, grid: Grid, num_heads: int, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal
        self.centres = nnx.Param(normal(2.0)(rngs.params(), (num_heads, 2)))
        self.spreads = nnx.Param(1 + normal(0.01)(rngs.params(), (num_heads,)))
        self.grid = grid

    def __call__(self) -> jax.Array:
        lines: list[jax.Array] = []
        for axis, size in enumerate(self.grid):
            offsets = np.arange(size) - np.arange(size)[:, None]
            centre = self.centres[:, axis, None, None]
            lines.append(jnp.asarray(offsets**2 - 2 * offsets * centre))
        return -0.5 * jnp.square(self.spreads[:, None, None]) * _on_grid(*lines)


class OffsetScores(Scores):
    """A learnt score for the offset in rows plus one for that in columns.

    Each offset has an embedding, and each head a linear map from embeddings to scores, for rows
    and for columns. `rows` and `columns` are (2 positions - 1, D), `row_heads` and `column_heads`
    map D to H. Their initial values are distributed as in the publication's code.
    """

    def __init__(self, grid: Grid, num_heads: int, width: int, positions: int, *, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(1.0)
        uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        shape = (2 * positions - 1, width)
        self.rows = nnx.Param(normal(rngs.params(), shape))
        self.columns = nnx.Param(normal(rngs.params(), shape))
        linear = functools.partial(Dense, kernel_init=uniform, bias=False, rngs=rngs)
        self.row_heads = linear((width,), (num_heads,))
        self.column_heads = linear((width,), (num_heads,))
        self.grid = grid

    def __call__(self) -> jax.Array:
        lines = []
        tables = ((self.rows, self.row_heads), (self.columns, self.column_heads))
        for size, (table, heads) in zip(self.grid, tables):
            middle = table.shape[0] // 2
            near = lax.slice_in_dim(table[...], middle - size + 1, middle + size)
            scores = heads(near).T  # (H, 2 size - 1)
            scores = jnp.broadcast_to(scores[:, None], (len(scores), size, 2 * size - 1))
            lines.append(align_offsets(scores))
        return _on_grid(*lines)


def _on_grid(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Sums of row scores (H, R, R) and column scores (H, C, C): (H, R * C, R * C)."""
    scores = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    patches = rows.shape[1] * columns.shape[1]
    return scores.reshape(len(scores), patches, patches).astype(jnp.float32)


class WideHeads(nnx.Module):
    """Attention whose heads average whole tokens.

    The averages (H * D numbers per token) pass two linear layers in a row, `value` to D and
    `projection` from D to D, as in the publication's code.

    Args:
      config: configuration of the model.
      scores: logits from offsets.
      content: whether products of queries and keys of width D, over sqrt(D), are added to them.
      rngs: random streams of the initialisation.
    """

    def __init__(self, config: ViTConfig, scores: Scores, content: bool, *, rngs: nnx.Rngs):
        width, heads, dtype = config.width, config.num_heads, jnp.dtype(config.dtype)
        self.scores = scores
        if content:
            self.query_key = Dense((width,), (2, heads, width), groups=1, rngs=rngs, dtype=dtype)
        self.value = Dense((heads, width), (width,), rngs=rngs, dtype=dtype)
        self.projection = Dense((width,), (width,), rngs=rngs, dtype=dtype)
        self.content = content
        self.dropout = config.attention_dropout

    def __call__(
        self,
        x: jax.Array,
        *,
        bias: Bias | None = None,
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """(B, N, D) -> (B, N, D) and, if asked for, the weights (B, H, N, N)."""
        assert rotation is None  # the kinds' `check` refuses rotary embeddings
        refuse_bias(bias, x[:, :, None])
        with jax.named_scope("attention"):
            scores = self.scores()[None]
            if self.content:
                query, key = unstack(self.query_key(x), 2)
                query, key = saved(query, "query"), saved(key, "key")
                scores = scores + jnp.einsum(
                    "bqhd,bkhd->bhqk",
                    query * query.shape[-1] ** -0.5,
                    key,
                    preferred_element_type=jnp.float32,
                )
            weights = jax.nn.softmax(scores, axis=-1)
            dtype, whole = self.value.dtype, (x.shape[0], *weights.shape[1:])
            x = x.astype(dtype)
            if self.content or (keys is not None and self.dropout):
                dropped = dropout(jnp.broadcast_to(weights, whole), self.dropout, keys)
                y = jnp.einsum("bhqk,bkd->bqhd", dropped.astype(dtype), x)
            else:  # the same weights for all images
                y = jnp.einsum("hqk,bkd->bqhd", weights[0].astype(dtype), x)
            y = self.projection(saved(self.value(y), "attended"))
            return y, jnp.broadcast_to(weights, whole) if return_weights else None


@dataclasses.dataclass(frozen=True)
class WideKind(AttentionKind):
    """Base class of the kinds with heads of full width."""

    splits_width = False
    name = ""

    def check(self, config: ViTConfig) -> None:
        """Refuses tokens outside the grid, and what these heads have not."""
        where = f"model.attention_kind {self.name!r}"
        if config.prefix_tokens:
            raise InputError(
                f"{where}: a class token or register has no offset to others; set model.head to "
                "'gap' or 'map', model.registers to 0"
            )
        check_parts(config, self.name)
        for option, usual in (
            *(("rotary", "none"), ("qk_norm", False), ("attention_norm", False)),
            *(("qkv_bias", "all"), ("out_bias", True)),
        ):
            if getattr(config, option) != usual:
                raise InputError(f"{where} needs model.{option} {usual!r}")

    @abc.abstractmethod
    def scores(self, config: ViTConfig, rngs: nnx.Rngs) -> Scores:
        """The logits from offsets."""

    def has_content(self) -> bool:
        """Whether logits depend on queries and keys too."""
        return False

    def create_block(self, config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A block of the encoder."""

        def attention(rngs: nnx.Rngs) -> WideHeads:
            return WideHeads(config, self.scores(config, rngs), self.has_content(), rngs=rngs)

        return create_block(config, attention, rngs=rngs)

    def macs(self, config: ViTConfig) -> int:
        """Weights with tokens, H N^2 D; as many of queries with keys."""
        products = 2 if self.has_content() else 1
        return products * config.num_heads * config.num_tokens**2 * config.width

    def projection_macs(self, config: ViTConfig) -> int:
        """N (H D^2 + D^2), and 2 N H D^2 for queries and keys."""
        matrices = (3 if self.has_content() else 1) * config.num_heads + 1
        return matrices * config.num_tokens * config.width**2


@ATTENTION_KINDS.register("quadratic")
@dataclasses.dataclass(frozen=True)
class Quadratic(WideKind):
    """Gaussians over offsets, whatever the patches show."""

    name = "quadratic"

    def scores(self, config: ViTConfig, rngs: nnx.Rngs) -> QuadraticScores:
        return QuadraticScores(config.grid, config.num_heads, rngs=rngs)


# More rows of patches than an image has: a larger number would fill the memory with its table.
MOST_POSITIONS = 4096


@ATTENTION_KINDS.register("offsets")
@dataclasses.dataclass(frozen=True)
class Offsets(WideKind):
    """Learnt scores of offsets.

    Args:
      positions: largest number of rows or columns of a grid.
      content: whether products of queries and keys are added.
    """

    positions: int = 16
    content: bool = False
    name = "offsets"

    def __post_init__(self) -> None:
        check_number(self.name, "positions", self.positions, 1)
        if self.positions > MOST_POSITIONS:
            raise InputError(
                f"model.attention_kind 'offsets': positions is {self.positions}; give the largest "
                f"number of rows or columns of a grid, at most {MOST_POSITIONS}"
            )
        check_switch(self.name, "content", self.content)

    def check(self, config: ViTConfig) -> None:
        super().check(config)
        if max(config.grid) > self.positions:
            raise InputError(
                f"model.attention_kind 'offsets': positions is {self.positions}, fewer than those "
                f"of the grid of {config.grid[0]}x{config.grid[1]} patches; give at least "
                f"{max(config.grid)}"
            )

    def scores(self, config: ViTConfig, rngs: nnx.Rngs) -> OffsetScores:
        return OffsetScores(config.grid, config.num_heads, config.width, self.positions, rngs=rngs)

    def has_content(self) -> bool:
        return self.content

    def projection_macs(self, config: ViTConfig) -> int:
        """Those of tokens, and the scores of the offsets."""
        offsets = sum(2 * size - 1 for size in config.grid)
        return super().projection_macs(config) + offsets * config.width * config.num_heads

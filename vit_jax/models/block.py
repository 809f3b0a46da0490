"""Blocks of the Transformer encoder (equations 2 and 3, appendix D.5)."""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import layers
from vit_jax.models.attention import Bias, SelfAttention
from vit_jax.models.axial import AxialAttention
from vit_jax.models.layers import LayerNorm, drop_path, fold_in, shard_batch
from vit_jax.models.mlp import Mlp
from vit_jax.models.posemb import PositionEmbedding, create_position_embedding
from vit_jax.models.vit_config import ViTConfig

# By name: attention weights (B, H, N, N) and outputs (B, N, D).
Intermediates = dict[str, jax.Array]


class Block(nnx.Module):
    """Equations 2 and 3: pre-norm attention and MLP, each with a residual connection."""

    def __init__(self, config: ViTConfig, *, axis: str | None = None, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.norm1 = LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)
        self.attention = _create_attention(config, axis, rngs)
        self.norm2 = LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)
        self.mlp = Mlp(
            config.width,
            config.mlp_dim,
            rngs=rngs,
            dtype=dtype,
            kind=config.mlp,
            gelu=config.gelu,
            dropout=config.dropout,
        )
        if config.layer_scale is not None:
            self.scale1 = nnx.Param(jnp.full((config.width,), config.layer_scale, jnp.float32))
            self.scale2 = nnx.Param(jnp.full((config.width,), config.layer_scale, jnp.float32))
        self.config = config

    def __call__(
        self,
        x: jax.Array,
        *,
        drop_rate: jax.Array,
        bias: Bias | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
    ) -> tuple[jax.Array, Intermediates]:
        """Encodes tokens.

        Args:
          x: (B, N, D).
          drop_rate: of stochastic depth.
          bias: what a position embedding adds to the logits of attention.
          keys: (B,) one key per example, None in evaluation.
          return_weights: return `attention` and `output`, else nothing by name.
        """
        x = shard_batch(x)
        y, weights = self.attention(
            self.norm1(x), bias=bias, keys=fold_in(keys, 0), return_weights=return_weights
        )
        x = x + self._branch(y, "scale1", drop_rate, keys, 1)
        y = self.mlp(self.norm2(x), keys=fold_in(keys, 3))
        x = shard_batch(x + self._branch(y, "scale2", drop_rate, keys, 4))
        return x, dict(attention=weights, output=x) if return_weights else {}

    def _branch(
        self,
        y: jax.Array,
        scale: str,
        drop_rate: jax.Array,
        keys: jax.Array | None,
        site: int,
    ) -> jax.Array:
        y = layers.dropout(y, self.config.dropout, fold_in(keys, site))
        if self.config.layer_scale is not None:
            y = y * getattr(self, scale)[...].astype(y.dtype)
        if self.config.stochastic_depth > 0.0:
            y = drop_path(y, drop_rate, fold_in(keys, site + 1))
        return y


class AxialBlock(nnx.Module):
    """Row attention and an MLP, then column attention and an MLP (appendix D.5)."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.row = Block(config, axis="row", rngs=rngs)
        self.column = Block(config, axis="column", rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        *,
        drop_rate: jax.Array,
        bias: Bias | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
    ) -> tuple[jax.Array, Intermediates]:
        """As `Block`; by name `row/attention`, `column/attention` and `output`."""
        options = dict(drop_rate=drop_rate, bias=bias, return_weights=return_weights)
        x, row = self.row(x, keys=fold_in(keys, 0), **options)
        x, column = self.column(x, keys=fold_in(keys, 1), **options)
        if not return_weights:
            return x, {}
        return x, {
            "row/attention": row["attention"],
            "column/attention": column["attention"],
            "output": x,
        }


def _create_attention(config: ViTConfig, axis: str | None, rngs: nnx.Rngs) -> SelfAttention:
    options = dict(
        rngs=rngs,
        dtype=jnp.dtype(config.dtype),
        qk_norm=config.qk_norm,
        norm_eps=config.norm_eps,
        dropout=config.attention_dropout,
        implementation=config.attention,
    )
    if axis is None:
        return SelfAttention(config.width, config.num_heads, **options)
    return AxialAttention(config.width, config.num_heads, grid=config.grid, axis=axis, **options)


def create_posemb(config: ViTConfig, rngs: nnx.Rngs) -> PositionEmbedding:
    """The model's position embedding, or that of one of its layers."""
    return create_position_embedding(
        config.posemb, config.grid, config.posemb_slots, config.width, config.num_heads, rngs=rngs
    )


def create_blocks(config: ViTConfig, rngs: nnx.Rngs) -> Block | AxialBlock:
    """One block whose parameters have a leading axis of length depth."""

    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs) -> Block | AxialBlock:
        block = (AxialBlock if config.axial else Block)(config, rngs=rngs)
        if config.posemb_where == "layers":
            block.posemb = create_posemb(config, rngs)
        return block

    return create(rngs)

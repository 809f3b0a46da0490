"""Blocks of the Transformer encoder (equations 2 and 3)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import layers
from vit_jax.models.attention import (
    ATTENTION_KINDS,
    AttentionKind,
    Bias,
    SelfAttention,
    attention_options,
)
from vit_jax.models.config import ViTConfig
from vit_jax.models.layers import LayerNorm, drop_path, fold_in, shard_batch
from vit_jax.models.mlp import Mlp
from vit_jax.models.posemb import PositionEmbedding

# By name: attention weights (B, H, N, N) and outputs (B, N, D).
Intermediates = dict[str, jax.Array]


class Block(nnx.Module):
    """Equations 2 and 3: pre-norm attention and MLP, each with a residual connection.

    Args:
      config: configuration of the model.
      attention: function that makes the attention layer from random streams; the layer takes
        (B, N, D) and the options `bias`, `keys` and `return_weights` of `SelfAttention`.
      rngs: random streams of the initialisation.
    """

    def __init__(
        self, config: ViTConfig, attention: Callable[[nnx.Rngs], nnx.Module], *, rngs: nnx.Rngs
    ):
        dtype = jnp.dtype(config.dtype)
        self.norm1 = LayerNorm(config.width, eps=config.norm_eps, dtype=dtype)
        self.attention = attention(rngs)
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
          drop_rate: rate of stochastic depth.
          bias: bias of a position embedding on the attention logits.
          keys: (B,) one key per example, None in evaluation.
          return_weights: whether to return `attention` and `output`; otherwise the dict is empty.
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


@ATTENTION_KINDS.register("full")
@dataclasses.dataclass(frozen=True)
class FullAttention(AttentionKind):
    """Every token attends to all tokens (appendix A)."""

    def create_block(self, config: ViTConfig, rngs: nnx.Rngs) -> Block:
        """A block of the encoder."""

        def attention(rngs: nnx.Rngs) -> SelfAttention:
            options = attention_options(config)
            return SelfAttention(config.width, config.num_heads, rngs=rngs, **options)

        return Block(config, attention, rngs=rngs)

    def macs(self, config: ViTConfig) -> int:
        """Queries with keys and weights with values: 2 N^2 D."""
        return 2 * config.num_tokens**2 * config.width


def create_posemb(config: ViTConfig, rngs: nnx.Rngs) -> PositionEmbedding:
    """The model's position embedding, or that of one of its layers."""
    return config.posemb_kind.create(config, rngs)


def create_blocks(config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
    """One block whose parameters have a leading axis of length depth."""

    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs) -> nnx.Module:
        block: Any = config.kind.create_block(config, rngs)
        if config.posemb_where == "layers":
            block.posemb = create_posemb(config, rngs)
        return block

    return create(rngs)

"""A Transformer block (section 3.1, equations 2 and 3), and other kinds of blocks."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models import layers
from vit_jax.models.attention.self_attention import (
    ATTENTION_KINDS,
    AttentionKind,
    Bias,
    SelfAttention,
    attention_options,
)
from vit_jax.models.forms.remat import saved
from vit_jax.models.layers import NORMS, drop_path, fold_in, shard_batch
from vit_jax.models.mlp import Mlp
from vit_jax.models.positions.rotary import Rotation
from vit_jax.registry import Registry

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

# By name: attention weights (B, H, N, N) and outputs (B, N, D).
Intermediates = dict[str, jax.Array]
# Makes an attention layer from random streams. The layer takes (B, N, D) and the options `bias`,
# `rotation`, `keys` and `return_weights` of `SelfAttention`.
CreateAttention = Callable[[nnx.Rngs], nnx.Module]


def create_norm(config: "ViTConfig") -> nnx.Module:
    """A norm of tokens, of the model's kind and dtype."""
    return NORMS[config.norm](config.width, eps=config.norm_eps, dtype=jnp.dtype(config.dtype))


class Block(nnx.Module):
    """Equations 2 and 3: pre-norm attention and MLP, each with a residual connection.

    Args:
      config: configuration of the model.
      attention: see `CreateAttention`.
      rngs: random streams of the initialisation.
    """

    def __init__(self, config: "ViTConfig", attention: CreateAttention, *, rngs: nnx.Rngs):
        self.norm1 = create_norm(config)
        self.attention = attention(rngs)
        self._create_mlp(config, rngs)
        if config.layer_scale is not None:
            self.scale1 = nnx.Param(jnp.full((config.width,), config.layer_scale, jnp.float32))
        self.config = config

    def _create_mlp(self, config: "ViTConfig", rngs: nnx.Rngs) -> None:
        """The parts of equation 3."""
        self.norm2 = create_norm(config)
        self.mlp = _mlp(config, rngs)
        if config.layer_scale is not None:
            self.scale2 = nnx.Param(jnp.full((config.width,), config.layer_scale, jnp.float32))

    def __call__(
        self,
        x: jax.Array,
        *,
        drop_rate: jax.Array,
        bias: Bias | None = None,
        rotation: Rotation | None = None,
        keys: jax.Array | None = None,
        return_weights: bool = False,
        layer: jax.Array | None = None,
    ) -> tuple[jax.Array, Intermediates]:
        """Encodes tokens.

        Args:
          x: (B, N, D).
          drop_rate: rate of stochastic depth.
          bias: bias of a position embedding on the attention logits.
          rotation: rotation of queries and keys by a rotary embedding.
          keys: (B,) one key per example, None in evaluation.
          return_weights: whether to return `attention` and `output`; otherwise the dict is empty.
          layer: number of the block, given if the attention kind is `by_layer`.
        """
        options: dict[str, Any] = dict(bias=bias, rotation=rotation, return_weights=return_weights)
        if layer is not None:
            options["layer"] = layer
        x, weights = self._encode(shard_batch(x), drop_rate, keys, options)
        x = shard_batch(x)
        return x, dict(weights, output=x) if return_weights else {}

    def _encode(
        self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None, options: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, Any]]:
        """The encoded tokens, and attention weights by name; `options` are the attention's."""
        y, weights = self.attention_branch(x, drop_rate, keys, **options)
        x = saved(x + y, "middle")
        return x + self.mlp_branch(x, drop_rate, keys), dict(attention=weights)

    def normed(self, x: jax.Array) -> jax.Array:
        """The tokens that attention sees, from the block's input: features for probes."""
        return self.norm1(x)

    def attention_branch(
        self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None, **options: Any
    ) -> tuple[jax.Array, Any]:
        """What equation 2 adds to x, and the weights; `options` are the attention layer's."""
        y, weights = self.attention(self.norm1(x), keys=fold_in(keys, 0), **options)
        return self._scaled(y, "scale1", drop_rate, keys, 1), weights

    def mlp_branch(self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None) -> jax.Array:
        """What equation 3 adds to x."""
        y = self.mlp(self.norm2(x), keys=fold_in(keys, 3))
        return self._scaled(y, "scale2", drop_rate, keys, 4)

    def _scaled(
        self,
        y: jax.Array,
        scale: str,
        drop_rate: jax.Array,
        keys: jax.Array | None,
        site: int,
    ) -> jax.Array:
        """A branch after dropout, LayerScale and stochastic depth."""
        y = layers.dropout(y, self.config.dropout, fold_in(keys, site))
        if self.config.layer_scale is not None:
            y = saved(y, "branch") * getattr(self, scale)[...].astype(y.dtype)
        if self.config.stochastic_depth > 0.0:
            y = drop_path(y, drop_rate, fold_in(keys, site + 1))
        return y

    def step(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, place: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes one token (B, 1, D) after those before it; see `SelfAttention.step`."""
        attention: Any = self.attention
        y, keys, values = attention.step(self.norm1(x), keys, values, place)
        none = jnp.zeros(())  # evaluation: no stochastic depth
        x = x + self._scaled(y, "scale1", none, None, 1)
        return x + self.mlp_branch(x, none, None), keys, values


def _mlp(config: "ViTConfig", rngs: nnx.Rngs) -> Mlp:
    return Mlp(
        config.width,
        config.mlp_dim,
        rngs=rngs,
        dtype=jnp.dtype(config.dtype),
        kind=config.mlp,
        gelu=config.gelu,
        dropout=config.dropout,
        bias=config.mlp_bias,
        inner_norm=config.norm if config.mlp_norm else None,
        norm_eps=config.norm_eps,
    )


class PostNormBlock(Block):
    """Norms at the end of the branches instead of at their beginning (Swin V2, 2111.09883)."""

    def normed(self, x: jax.Array) -> jax.Array:
        return x

    def attention_branch(
        self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None, **options: Any
    ) -> tuple[jax.Array, Any]:
        y, weights = self.attention(x, keys=fold_in(keys, 0), **options)
        y = self.norm1(saved(y, "branch"))
        return self._scaled(y, "scale1", drop_rate, keys, 1), weights

    def mlp_branch(self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None) -> jax.Array:
        y = self.mlp(x, keys=fold_in(keys, 3))
        return self._scaled(self.norm2(saved(y, "branch")), "scale2", drop_rate, keys, 4)


class SumNormBlock(Block):
    """A norm of each sum of tokens and branch (1706.03762, BERT 1810.04805).

    Dropout acts on the branches alone, not within the MLP.
    """

    def _create_mlp(self, config: "ViTConfig", rngs: nnx.Rngs) -> None:
        super()._create_mlp(config, rngs)
        self.mlp.dropout = 0.0

    def _encode(
        self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None, options: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, Any]]:
        y, weights = self.attention(x, keys=fold_in(keys, 0), **options)
        x = self.norm1(saved(x + self._scaled(y, "scale1", drop_rate, keys, 1), "middle"))
        y = self.mlp(x, keys=fold_in(keys, 3))
        x = self.norm2(saved(x + self._scaled(y, "scale2", drop_rate, keys, 4), "branch"))
        return x, dict(attention=weights)


class ParallelBlock(Block):
    """Attention and MLP of the same normed tokens, in one residual branch (2302.05442)."""

    def _create_mlp(self, config: "ViTConfig", rngs: nnx.Rngs) -> None:
        self.mlp = _mlp(config, rngs)

    def _encode(
        self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None, options: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, Any]]:
        normed = self.norm1(x)
        y, weights = self.attention(normed, keys=fold_in(keys, 0), **options)
        y = y + self.mlp(normed, keys=fold_in(keys, 3))
        return x + self._scaled(y, "scale1", drop_rate, keys, 1), dict(attention=weights)


class BranchedBlock(Block):
    """Several attentions side by side, then several MLPs (2203.09795).

    `branch{i}` is a `Block` whose attention and MLP are the i-th branches; it gives the
    intermediate `branch{i}/attention`.
    """

    def __init__(
        self, config: "ViTConfig", attention: CreateAttention, count: int, *, rngs: nnx.Rngs
    ):
        for i in range(count):
            setattr(self, f"branch{i}", Block(config, attention, rngs=rngs))
        self.count = count

    def normed(self, x: jax.Array) -> jax.Array:
        return x  # each branch has a norm of its own

    def _encode(
        self, x: jax.Array, drop_rate: jax.Array, keys: jax.Array | None, options: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, Any]]:
        blocks = [(getattr(self, f"branch{i}"), fold_in(keys, i)) for i in range(self.count)]
        attended = [block.attention_branch(x, drop_rate, own, **options) for block, own in blocks]
        x = saved(x + sum(y for y, _ in attended), "middle")
        x = x + sum(block.mlp_branch(x, drop_rate, own) for block, own in blocks)
        return x, {f"branch{i}/attention": each for i, (_, each) in enumerate(attended)}


class BlockKind:
    """How attention and MLP are put together: the value of `model.block`.

    A kind is a frozen dataclass, registered under its name in `BLOCKS`; its fields are the
    arguments in parentheses, as in "branched(count=2)".
    """

    @property
    def branches(self) -> int:
        """Number of attentions, each with its MLP."""
        return 1

    def create(self, config: "ViTConfig", attention: CreateAttention, rngs: nnx.Rngs) -> nnx.Module:
        """The block; it is called like a `Block`."""
        raise NotImplementedError


BLOCKS: Registry[Callable[..., BlockKind]] = Registry("kind of block")


@BLOCKS.register("sequential")
@dataclasses.dataclass(frozen=True)
class Sequential(BlockKind):
    """Attention, then the MLP, with norms before them (equations 2 and 3)."""

    def create(self, config: "ViTConfig", attention: CreateAttention, rngs: nnx.Rngs) -> nnx.Module:
        return Block(config, attention, rngs=rngs)


@BLOCKS.register("post_norm")
@dataclasses.dataclass(frozen=True)
class PostNorm(BlockKind):
    """Attention, then the MLP, with norms after them."""

    def create(self, config: "ViTConfig", attention: CreateAttention, rngs: nnx.Rngs) -> nnx.Module:
        return PostNormBlock(config, attention, rngs=rngs)


@BLOCKS.register("sum_norm")
@dataclasses.dataclass(frozen=True)
class SumNorm(BlockKind):
    """Attention, then the MLP, with norms of the sums, as in BERT."""

    def create(self, config: "ViTConfig", attention: CreateAttention, rngs: nnx.Rngs) -> nnx.Module:
        return SumNormBlock(config, attention, rngs=rngs)


@BLOCKS.register("parallel")
@dataclasses.dataclass(frozen=True)
class Parallel(BlockKind):
    """Attention beside the MLP."""

    def create(self, config: "ViTConfig", attention: CreateAttention, rngs: nnx.Rngs) -> nnx.Module:
        return ParallelBlock(config, attention, rngs=rngs)


@BLOCKS.register("branched")
@dataclasses.dataclass(frozen=True)
class Branched(BlockKind):
    """Several attentions, then several MLPs.

    Args:
      count: number of them.
    """

    count: int = 2

    def __post_init__(self):
        if not 1 <= self.count <= 16:
            raise InputError(f"model.block: count is {self.count}; give 1 to 16")

    @property
    def branches(self) -> int:
        return self.count

    def create(self, config: "ViTConfig", attention: CreateAttention, rngs: nnx.Rngs) -> nnx.Module:
        return BranchedBlock(config, attention, self.count, rngs=rngs)


def create_block(config: "ViTConfig", attention: CreateAttention, *, rngs: nnx.Rngs) -> nnx.Module:
    """A block of the kind that `model.block` names, around an attention layer."""
    return config.block_kind.create(config, attention, rngs)


@ATTENTION_KINDS.register("full")
@dataclasses.dataclass(frozen=True)
class FullAttention(AttentionKind):
    """Every token attends to all tokens (appendix A)."""

    def create_block(self, config: "ViTConfig", rngs: nnx.Rngs) -> nnx.Module:
        """A block of the encoder."""

        def attention(rngs: nnx.Rngs) -> SelfAttention:
            options = attention_options(config)
            return SelfAttention(config.width, config.num_heads, rngs=rngs, **options)

        return create_block(config, attention, rngs=rngs)

    def macs(self, config: "ViTConfig") -> int:
        """Queries with keys and weights with values: 2 N^2 D."""
        return 2 * config.num_tokens**2 * config.width


@ATTENTION_KINDS.register("causal")
@dataclasses.dataclass(frozen=True)
class CausalAttention(AttentionKind):
    """Every token attends to those before it and to itself, as in iGPT."""

    causal = True

    def check(self, config: "ViTConfig") -> None:
        """Refuses tokens before the patches, which would not see the image."""
        if config.prefix_tokens:
            raise InputError(
                "model.attention_kind 'causal': a class token or register comes before the patches "
                "and would see none of them; set model.head to 'gap' or 'map', model.registers to 0"
            )

    def create_block(self, config: "ViTConfig", rngs: nnx.Rngs) -> nnx.Module:
        """A block of the encoder."""

        def attention(rngs: nnx.Rngs) -> SelfAttention:
            options = dict(attention_options(config), causal=True)
            return SelfAttention(config.width, config.num_heads, rngs=rngs, **options)

        return create_block(config, attention, rngs=rngs)

    def macs(self, config: "ViTConfig") -> int:
        """Two products of the query at place i with i keys: N (N + 1) D.

        The XLA implementation computes all N^2 pairs and hides those that do not count.
        """
        return config.num_tokens * (config.num_tokens + 1) * config.width


def create_blocks(config: "ViTConfig", rngs: nnx.Rngs) -> nnx.Module:
    """One block whose parameters have a leading axis of length depth."""

    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs) -> nnx.Module:
        block: Any = config.kind.create_block(config, rngs)
        if config.posemb_where == "layers":
            block.posemb = config.posemb_kind.create(config, rngs)
        if config.rotary_kind.per_layer:
            block.rotary = config.rotary_kind.create(config, rngs)
        if not config.position_bias_kind.shared:
            block.position_bias = config.position_bias_kind.create(config, rngs)
        return block

    return create(rngs)

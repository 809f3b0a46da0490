"""Sparse Transformer (1904.10509): two sets of keys, divided among layers or heads, or merged."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError, unknown
from vit_jax.models.attention.fused.choice import masked_attention
from vit_jax.models.attention.local import check_number, check_parts, check_switch, refuse_bias
from vit_jax.models.attention.patterns import NAMES, Pattern, Sees, sparse_attention
from vit_jax.models.attention.self_attention import (
    ATTENTION_KINDS,
    AttentionKind,
    Bias,
    SelfAttention,
    attention_options,
)
from vit_jax.models.block import create_block
from vit_jax.models.layers import fold_in, unstack
from vit_jax.models.vit_config import ViTConfig

# How the two sets are divided (section 4.2): both for every head; the first for even layers, the
# second for odd ones; the first for even heads, the second for odd ones.
FACTORS = ("merged", "by_layer", "by_head")


class SparseAttention(SelfAttention):
    """Self-attention to a pattern's sets of keys, with the parameters of self-attention.

    Args:
      *args, **options: those of `SelfAttention`.
      pattern: the pattern.
      factors: one of FACTORS.
    """

    def __init__(self, *args: Any, pattern: Pattern, factors: str, **options: Any):
        super().__init__(*args, **options)
        self.pattern = pattern
        self.factors = factors

    def mix(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        *,
        bias: Bias | None,
        keys: jax.Array | None,
        return_weights: bool,
        layer: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        refuse_bias(bias, query)

        def attend(
            sets: tuple[int, ...],
            keys: jax.Array | None,
            query: jax.Array,
            key: jax.Array,
            value: jax.Array,
        ) -> tuple[jax.Array, jax.Array | None]:
            plain = not return_weights and (self.dropout == 0.0 or keys is None)
            if self.implementation == "splash" and plain:
                before = query.shape[1] - self.pattern.length
                return masked_attention(query, key, value, Sees(self.pattern, sets, before)), None
            return sparse_attention(
                query,
                key,
                value,
                self.pattern,
                sets,
                rate=self.dropout,
                keys=keys,
                return_weights=return_weights,
            )

        inputs = (query, key, value)
        if self.factors == "merged":
            return attend((0, 1), keys, *inputs)
        if self.factors == "by_layer":
            if layer is None:
                raise TypeError("attention that differs by layer needs the number of its layer")
            first, second = (functools.partial(attend, (which,), keys) for which in (0, 1))
            return jax.lax.cond(layer % 2 == 0, first, second, *inputs)
        # Every second head: heads that are split over devices stay where they are.
        pairs = [x.reshape(*x.shape[:2], -1, 2, x.shape[-1]) for x in inputs]
        found = [
            attend((which,), fold_in(keys, which), *(unstack(x, 3)[which] for x in pairs))
            for which in (0, 1)
        ]
        y = jnp.stack([y for y, _ in found], axis=3).reshape(query.shape)
        weights = [each for _, each in found if each is not None]
        if not weights:
            return y, None
        stacked = jnp.stack(weights, axis=2)
        return y, stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])


@ATTENTION_KINDS.register("sparse")
@dataclasses.dataclass(frozen=True)
class Sparse(AttentionKind):
    """The patterns of Sparse Transformer; tokens before the patches are global, as in local kinds.

    Args:
      pattern: strided or fixed; see `patterns`.
      stride: length of a block; 0: the columns of the grid.
      summary: for fixed, number of places at the end of each block that all queries see.
      factors: one of FACTORS.
      causal: whether a query sees only itself and keys before it, in raster order.
    """

    pattern: str = "strided"
    stride: int = 0
    summary: int = 1
    factors: str = "merged"
    causal: bool = False

    def __post_init__(self) -> None:
        for argument, value, known in (
            ("pattern", self.pattern, NAMES),
            ("factors", self.factors, FACTORS),
        ):
            if value not in known:
                raise unknown(f"{argument} of model.attention_kind 'sparse'", str(value), known)
        check_number("sparse", "stride", self.stride, 0)
        check_number("sparse", "summary", self.summary, 1)
        check_switch("sparse", "causal", self.causal)
        if self.pattern != "fixed" and self.summary != 1:
            raise InputError(
                f"model.attention_kind 'sparse': summary is {self.summary}, but only the pattern "
                "'fixed' has summaries; leave it out, or set pattern to 'fixed'"
            )

    @property
    def by_layer(self) -> bool:
        """Whether the attention layer needs the number of its block."""
        return self.factors == "by_layer"

    def check(self, config: ViTConfig) -> None:
        """Refuses a stride that does not fit the grid, and parts that need all pairs of tokens."""
        where = "model.attention_kind 'sparse'"
        check_parts(config, "sparse", implementations=("auto", "xla", "splash"))
        stride = self.stride or config.grid[1]
        if config.num_patches % stride:
            rows, columns = config.grid
            raise InputError(
                f"{where}: stride {stride} does not divide the {config.num_patches} patches of the "
                f"grid of {rows}x{columns}; {columns} does"
            )
        if self.pattern == "fixed" and self.summary > stride:
            raise InputError(
                f"{where}: summary is {self.summary}, larger than the stride; give at most {stride}"
            )
        if self.causal and config.prefix_tokens:
            raise InputError(
                f"{where}: causal has no place for a class token or register, which would see "
                "nothing or everything; set model.head to 'gap' or 'map', model.registers to 0"
            )
        if self.factors == "by_head" and config.num_heads % 2:
            raise InputError(
                f"{where}: factors='by_head' needs an even number of heads, not {config.num_heads}"
            )

    def laid_out(self, config: ViTConfig) -> Pattern:
        """The pattern on the model's patches."""
        stride = self.stride or config.grid[1]
        return Pattern(self.pattern, config.num_patches, stride, self.summary, self.causal)

    def create_block(self, config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A block of the encoder."""

        def attention(rngs: nnx.Rngs) -> SparseAttention:
            return SparseAttention(
                config.width,
                config.num_heads,
                rngs=rngs,
                pattern=self.laid_out(config),
                factors=self.factors,
                **attention_options(config),
            )

        return create_block(config, attention, rngs=rngs)

    def macs(self, config: ViTConfig) -> int:
        """Multiply-accumulates of the first block, with the keys that queries see.

        Products with keys that are hidden are not counted; `splash` computes those of its blocks.
        """
        if self.factors == "merged":
            return self._macs_of(config, (0, 1))
        if self.factors == "by_layer":
            return self._macs_of(config, (0,))
        return (self._macs_of(config, (0,)) + self._macs_of(config, (1,))) // 2

    def all_macs(self, config: ViTConfig) -> int:
        """Those of all blocks, the second set's in every second one if sets differ by layer."""
        if not self.by_layer:
            return super().all_macs(config)
        even, odd = (self._macs_of(config, (which,)) for which in (0, 1))
        return (config.depth + 1) // 2 * even + config.depth // 2 * odd

    def _macs_of(self, config: ViTConfig, sets: tuple[int, ...]) -> int:
        """Those of one block in which all heads see the sets."""
        prefix, patches = config.prefix_tokens, config.num_patches
        pairs = int(self.laid_out(config).counts(sets).sum()) + prefix * (2 * patches + prefix)
        return 2 * pairs * config.width

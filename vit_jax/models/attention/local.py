"""Local attention: among the patches of a block, a block with a halo, or a window.

Tokens before the patches (class, distillation, registers) are global: they attend to all tokens,
and all tokens attend to them.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vit_jax.errors import InputError
from vit_jax.models.attention import windows
from vit_jax.models.attention.self_attention import (
    ATTENTION_KINDS,
    AttentionKind,
    Bias,
    SelfAttention,
    attention_options,
)
from vit_jax.models.attention.windows import Cut, Cuts
from vit_jax.models.block import create_block
from vit_jax.models.vit_config import ViTConfig


class RelativeOffsets(nnx.Module):
    """Learnt keys of row and column offsets (stand-alone self-attention, 1906.05909, section 3).

    The first half of a query's numbers is multiplied with the key of the row offset, the second
    half with that of the column offset. Both products are added to the logits, and are scaled
    like them by 1 / sqrt(d), which the paper's equation does not do.

    `rows` and `columns` are (2 reach + 1, H, d / 2); the first is for a key `reach` patches before
    its query.
    """

    def __init__(self, reach: int, num_heads: int, head_width: int, *, std: float, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(std)
        shape = (2 * reach + 1, num_heads, head_width // 2)
        self.rows = nnx.Param(normal(rngs.params(), shape, jnp.float32))
        self.columns = nnx.Param(normal(rngs.params(), shape, jnp.float32))

    def __call__(self, queries: jax.Array, cuts: Cuts) -> tuple[jax.Array, jax.Array]:
        """Queries (B, I, J, H, a, c, d) -> logits; see `windows.Relative`."""
        half = queries.shape[-1] // 2
        tables = (self.rows[...], self.columns[...])
        rows, columns = (
            _aligned(table.astype(queries.dtype), each) for table, each in zip(tables, cuts)
        )
        einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        return (
            einsum("bijhace,awhe->bijhacw", queries[..., :half], rows),
            einsum("bijhace,cxhe->bijhacx", queries[..., half:], columns),
        )


def _aligned(table: jax.Array, each: Cut) -> jax.Array:
    """The key of each query's offset to each key: (2 reach + 1, H, e) -> (block, span, H, e).

    Offsets beyond the reach, which are hidden, get zeros.
    """
    reach = len(table) // 2
    lowest, highest = each.halo + each.block - 1, each.span - 1 - each.halo
    before, after = max(0, lowest - reach), max(0, highest - reach)
    table = jnp.pad(table, ((before, after), (0, 0), (0, 0)))
    first = before + reach - each.halo  # of the first query's first key
    return jnp.stack(
        [
            lax.slice_in_dim(table, first - query, first - query + each.span)
            for query in range(each.block)
        ]
    )


class LocalAttention(SelfAttention):
    """Self-attention of patches to those of a window.

    It has the parameters of self-attention, and `relative` if offsets have learnt keys.

    Args:
      *args, **options: those of `SelfAttention`.
      cuts: windows on the grid.
      relative: module that is called like `windows.Relative`, None: none.
      causal: whether a patch only sees itself and those before it, in raster order.
    """

    def __init__(
        self,
        *args: Any,
        cuts: Cuts,
        relative: RelativeOffsets | None = None,
        causal: bool = False,
        **options: Any,
    ):
        super().__init__(*args, causal=causal, **options)
        self.cuts = cuts
        self.has_offsets = relative is not None
        if relative is not None:
            self.relative = relative

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
        return windows.local_attention(
            query,
            key,
            value,
            self.cuts,
            relative=self.relative if self.has_offsets else None,
            causal=self.causal,
            rate=self.dropout,
            keys=keys,
            return_weights=return_weights,
        )


def refuse_bias(bias: Bias | None, query: jax.Array) -> None:
    """Raises InputError for a bias among all tokens, which no window has room for."""
    if bias is not None and bias(query) is not None:
        raise InputError(
            "this model.attention_kind computes no logits among all tokens, to which the model's "
            "position bias could be added; choose another model.posemb or position_bias"
        )


def check_parts(
    config: ViTConfig,
    name: str,
    instead: str = "",
    implementations: Sequence[str] = ("auto", "xla"),
) -> None:
    """Refuses parts of a model that need the logits of all pairs of tokens.

    Args:
      config: configuration of the model.
      name: name of the attention kind.
      instead: what to use instead of a position bias.
      implementations: values of `model.attention` that the kind takes.
    """
    where = f"model.attention_kind {name!r}"
    if config.posemb.partition("(")[0] == "relative":
        raise InputError(f"{where} needs another model.posemb than 'relative'{instead}")
    if config.position_bias != "none":
        raise InputError(f"{where} needs model.position_bias 'none'{instead}")
    if config.attention not in implementations:
        known = " or ".join(repr(each) for each in implementations[1:])
        raise InputError(f"{where} needs model.attention {known}, not {config.attention!r}")


def check_number(name: str, argument: str, value: object, least: int) -> None:
    """Refuses an argument of an attention kind that is no whole number from `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"model.attention_kind {name!r}: {argument} is {value!r}; give a whole number of "
            f"patches, {least} or more"
        )


def check_switch(name: str, argument: str, value: object) -> None:
    """Refuses an argument of an attention kind that is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(
            f"model.attention_kind {name!r}: {argument} is {value!r}; give True or False"
        )


@dataclasses.dataclass(frozen=True)
class LocalKind(AttentionKind):
    """Base class of local kinds: a subclass gives the windows and the reach of offsets.

    Args:
      relative: whether offsets have learnt keys (`RelativeOffsets`).
    """

    relative: bool = dataclasses.field(default=False, kw_only=True)
    name = ""

    def __post_init__(self) -> None:
        check_switch(self.name, "relative", self.relative)

    def cuts(self, config: ViTConfig) -> Cuts:
        """The windows on the model's grid."""
        raise NotImplementedError

    @property
    def reach(self) -> int:
        """The largest offset of a key from its query, on a grid of any size."""
        raise NotImplementedError

    def check(self, config: ViTConfig) -> None:
        """Refuses parts that need all pairs of tokens, and windows larger than the grid."""
        check_parts(config, self.name, "; relative=True gives offsets learnt keys")
        if self.relative and config.width // config.num_heads % 2:
            raise InputError(
                f"model.attention_kind {self.name!r}: relative=True needs heads of an even width, "
                f"not {config.width // config.num_heads}: change model.num_heads"
            )

    def _check_fits(self, config: ViTConfig, argument: str, size: int, largest: int) -> None:
        if size > largest:
            rows, columns = config.grid
            raise InputError(
                f"model.attention_kind {self.name!r}: {argument} is {size}, larger than the grid "
                f"of {rows}x{columns} patches; give at most {largest}"
            )

    def create_block(self, config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A block of the encoder."""
        heads, head_width = config.num_heads, config.width // config.num_heads

        def attention(rngs: nnx.Rngs) -> LocalAttention:
            relative = None
            if self.relative:
                relative = RelativeOffsets(
                    self.reach, heads, head_width, std=config.posemb_std, rngs=rngs
                )
            return LocalAttention(
                config.width,
                heads,
                rngs=rngs,
                cuts=self.cuts(config),
                relative=relative,
                **attention_options(config),
            )

        return create_block(config, attention, rngs=rngs)

    def macs(self, config: ViTConfig) -> int:
        """Multiply-accumulates with the keys that queries see, and with the keys of offsets.

        Products with padding, and those that are hidden, are not counted.
        """
        cuts = self.cuts(config)
        total = 2 * windows.pairs(cuts, config.prefix_tokens) * config.width
        if self.relative:
            rows, columns = cuts
            offsets = rows.pairs() * columns.size + columns.pairs() * rows.size
            total += offsets * config.width // 2
        return total


@ATTENTION_KINDS.register("block")
@dataclasses.dataclass(frozen=True)
class Blocks(LocalKind):
    """Patches attend to those of their block of size x size (2103.14030, without shifts).

    Args:
      size: rows and columns of a block.
      relative: see `LocalKind`.
    """

    size: int
    name = "block"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "size", self.size, 1)

    def check(self, config: ViTConfig) -> None:
        super().check(config)
        self._check_fits(config, "size", self.size, max(config.grid))

    def cuts(self, config: ViTConfig) -> Cuts:
        rows, columns = (windows.cut(size, self.size, 0) for size in config.grid)
        return rows, columns

    @property
    def reach(self) -> int:
        return self.size - 1


@ATTENTION_KINDS.register("halo")
@dataclasses.dataclass(frozen=True)
class Halo(LocalKind):
    """Patches attend to those of their block and of the halo around it (2103.12731).

    Args:
      size: rows and columns of a block.
      halo: width of the halo, in patches, on all sides.
      relative: see `LocalKind`.
    """

    size: int
    halo: int
    name = "halo"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "size", self.size, 1)
        check_number(self.name, "halo", self.halo, 0)

    def check(self, config: ViTConfig) -> None:
        super().check(config)
        self._check_fits(config, "size", self.size, max(config.grid))
        self._check_fits(config, "halo", self.halo, max(config.grid) - 1)

    def cuts(self, config: ViTConfig) -> Cuts:
        rows, columns = (windows.cut(size, self.size, self.halo) for size in config.grid)
        return rows, columns

    @property
    def reach(self) -> int:
        return self.size - 1 + self.halo


@ATTENTION_KINDS.register("window")
@dataclasses.dataclass(frozen=True)
class Window(LocalKind):
    """Patches attend to those of a window centred on them (1906.05909, section 3).

    Args:
      size: rows and columns of the window, an odd number.
      relative: see `LocalKind`.
    """

    size: int
    name = "window"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "size", self.size, 1)
        if self.size % 2 == 0:
            raise InputError(
                f"model.attention_kind 'window': size is {self.size}; give an odd number, so that "
                f"the window has a centre, such as {self.size + 1}"
            )

    def check(self, config: ViTConfig) -> None:
        super().check(config)
        self._check_fits(config, "size", self.size, 2 * max(config.grid) - 1)

    def cuts(self, config: ViTConfig) -> Cuts:
        return windows.centred_cuts(config.grid, self.size // 2, config.width // config.num_heads)

    @property
    def reach(self) -> int:
        return self.size // 2

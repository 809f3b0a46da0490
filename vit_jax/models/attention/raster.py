"""Local attention of the Image Transformer (1802.05751, section 3.2): causal, in blocks."""

import dataclasses

from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models.attention import windows
from vit_jax.models.attention.local import LocalAttention, check_number, check_parts
from vit_jax.models.attention.self_attention import (
    ATTENTION_KINDS,
    AttentionKind,
    attention_options,
)
from vit_jax.models.attention.windows import Cut, Cuts
from vit_jax.models.block import create_block
from vit_jax.models.vit_config import ViTConfig


class RasterKind(AttentionKind):
    """Base class of causal local kinds: a subclass gives the windows.

    Patches, or pixels, are generated in raster order. A query sees the keys of its window that
    do not come after it.
    """

    causal = True
    name = ""

    def cuts(self, config: ViTConfig) -> Cuts:
        """The windows on the model's grid."""
        raise NotImplementedError

    def check(self, config: ViTConfig) -> None:
        """Refuses parts that need all pairs of tokens, and tokens before the patches."""
        check_parts(config, self.name)
        if config.prefix_tokens:
            raise InputError(
                f"model.attention_kind {self.name!r} is causal and has no place for a class token "
                "or register, which would see nothing or everything; set model.head to 'gap' or "
                "'map', model.registers to 0"
            )

    def _check_at_most(self, argument: str, size: int, largest: int, of: str) -> None:
        if size > largest:
            raise InputError(
                f"model.attention_kind {self.name!r}: {argument} is {size}, larger than {of}; give "
                f"at most {largest}"
            )

    def create_block(self, config: ViTConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A block of the encoder."""

        def attention(rngs: nnx.Rngs) -> LocalAttention:
            return LocalAttention(
                config.width,
                config.num_heads,
                rngs=rngs,
                cuts=self.cuts(config),
                causal=True,
                **attention_options(config),
            )

        return create_block(config, attention, rngs=rngs)

    def macs(self, config: ViTConfig) -> int:
        """Multiply-accumulates with the keys that queries see; hidden products are not counted."""
        return 2 * windows.pairs(self.cuts(config), 0, causal=True) * config.width


@ATTENTION_KINDS.register("local_1d")
@dataclasses.dataclass(frozen=True)
class Local1D(RasterKind):
    """Patches in raster order, in blocks; a query sees its own block and the one before.

    Args:
      size: length of a block (l in the paper; its query block is as long as its memory block).
    """

    size: int
    name = "local_1d"

    def __post_init__(self) -> None:
        check_number(self.name, "size", self.size, 1)

    def check(self, config: ViTConfig) -> None:
        super().check(config)
        patches = config.num_patches
        self._check_at_most("size", self.size, patches, f"the sequence of {patches} patches")

    def cuts(self, config: ViTConfig) -> Cuts:
        length = config.num_patches
        return Cut(1, 1), Cut(length, self.size, self.size, after=0)


@ATTENTION_KINDS.register("local_2d")
@dataclasses.dataclass(frozen=True)
class Local2D(RasterKind):
    """Blocks of the grid; a query sees its block, and keys above, left and right of it.

    The paper generates one block after another; here patches stay in raster order, so that of the
    keys right of the block those of the rows above the query are seen too.

    Args:
      rows, columns: size of a block of queries.
      above: rows of keys above the block.
      beside: columns of keys left of the block, and right of it.
    """

    rows: int
    columns: int
    above: int
    beside: int
    name = "local_2d"

    def __post_init__(self) -> None:
        for argument in ("rows", "columns"):
            check_number(self.name, argument, getattr(self, argument), 1)
        for argument in ("above", "beside"):
            check_number(self.name, argument, getattr(self, argument), 0)

    def check(self, config: ViTConfig) -> None:
        super().check(config)
        rows, columns = config.grid
        grid = f"the grid of {rows}x{columns} patches"
        self._check_at_most("rows", self.rows, rows, grid)
        self._check_at_most("columns", self.columns, columns, grid)
        self._check_at_most("above", self.above, max(rows - 1, 0), f"{grid} allows")
        self._check_at_most("beside", self.beside, max(columns - 1, 0), f"{grid} allows")

    def cuts(self, config: ViTConfig) -> Cuts:
        rows, columns = config.grid
        return (
            Cut(rows, self.rows, self.above, after=0),
            Cut(columns, self.columns, self.beside),
        )

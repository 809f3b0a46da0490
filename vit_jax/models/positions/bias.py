"""Biases on attention logits that depend on the offset between two patches."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models.attention.fused.choice import check_takes_bias
from vit_jax.models.layers import Dense
from vit_jax.registry import Registry

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

Grid = tuple[int, int]


class PositionBias(nnx.Module):
    """Base class of position biases; itself adds nothing."""

    def __call__(self) -> jax.Array | None:
        """Bias on the attention logits (1, H, N, N) in float32, [query, key]; None: none."""
        return None


def bias_of(position_bias: PositionBias, kept: jax.Array | None) -> jax.Array | None:
    """The bias among all tokens (1, H, N, N), or among those at `kept` (B, n): (B, H, n, n)."""
    bias = position_bias()
    if bias is None or kept is None:
        return bias
    return jax.vmap(lambda places: bias[0][:, places][:, :, places])(kept)


def sum_of(
    bias: Callable[[jax.Array], jax.Array | None], fixed: jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """A bias that depends on the queries plus one that does not."""

    def total(query: jax.Array) -> jax.Array:
        other = bias(query)
        return fixed if other is None else fixed + other

    return total


class TablePositionBias(PositionBias):
    """A learnt bias per head for every offset in rows and columns (BEiT, 2106.08254).

    `table` is (offsets, H): (2 R - 1)(2 C - 1) rows for a grid of R x C patches, the first for a
    key R - 1 rows below and C - 1 columns right of its query. With a class token three rows
    follow: from the class token to a patch, from a patch to it, and from it to itself.
    """

    def __init__(self, grid: Grid, num_heads: int, class_token: bool, *, rngs: nnx.Rngs):
        rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + (3 if class_token else 0)
        init = nnx.initializers.truncated_normal(0.02)
        self.table = nnx.Param(init(rngs.params(), (rows, num_heads), jnp.float32))
        self.grid = grid
        self.class_token = class_token

    def __call__(self) -> jax.Array:
        index = offset_index(self.grid, self.class_token)
        return self.table[...][index].transpose(2, 0, 1)[None]


class MlpPositionBias(PositionBias):
    """The bias of an offset is an MLP of its logarithm, sign(x) log(1 + |x|) (Swin V2, 2111.09883).

    The first input is the offset in rows, the second that in columns. Tokens before the patches
    get no bias.
    """

    def __init__(self, grid: Grid, num_heads: int, prefix: int, hidden: int, *, rngs: nnx.Rngs):
        self.fc1 = Dense((2,), (hidden,), rngs=rngs)
        self.fc2 = Dense((hidden,), (num_heads,), rngs=rngs)
        self.grid = grid
        self.prefix = prefix

    def __call__(self) -> jax.Array:
        rows, columns = (np.arange(1 - size, size) for size in self.grid)
        offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        logs = np.sign(offsets) * np.log1p(np.abs(offsets))
        biases = self.fc2(jax.nn.relu(self.fc1(jnp.asarray(logs, jnp.float32))))
        bias = biases[offset_index(self.grid, False)].transpose(2, 0, 1)
        return jnp.pad(bias, ((0, 0), (self.prefix, 0), (self.prefix, 0)))[None]


def offset_index(grid: Grid, class_token: bool) -> np.ndarray:
    """For each query and key the row of `TablePositionBias.table` (N, N)."""
    y, x = np.indices(grid).reshape(2, -1)
    dy, dx = (axis[:, None] - axis[None] for axis in (y, x))
    index = (dy + grid[0] - 1) * (2 * grid[1] - 1) + dx + grid[1] - 1
    if not class_token:
        return index
    offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
    whole = np.pad(index, ((1, 0), (1, 0)))
    whole[0, 1:], whole[1:, 0], whole[0, 0] = offsets, offsets + 1, offsets + 2
    return whole


class PositionBiasKind:
    """A kind of position bias: the value of `model.position_bias`.

    A kind is a frozen dataclass, registered under its name in `POSITION_BIASES`; its fields are
    the arguments in parentheses, as in "table(shared=True)".
    """

    shared: bool = True  # whether all blocks have the same parameters

    def check(self, config: "ViTConfig") -> None:
        """Raises InputError where other options of the model do not suit this kind."""
        check_takes_bias(config.attention, "model.position_bias")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionBias:
        """The module for `config.grid`."""
        raise NotImplementedError

    def macs(self, config: "ViTConfig") -> int:
        """Multiply-accumulates of an image's forward pass in one block."""
        del config
        return 0


POSITION_BIASES: Registry[Callable[..., PositionBiasKind]] = Registry("position bias")


@POSITION_BIASES.register("none")
@dataclasses.dataclass(frozen=True)
class NoPositionBias(PositionBiasKind):
    """No bias."""

    def check(self, config: "ViTConfig") -> None:
        """Suits every model."""

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionBias:
        del config, rngs
        return PositionBias()


@POSITION_BIASES.register("table")
@dataclasses.dataclass(frozen=True)
class Table(PositionBiasKind):
    """A table of biases, for each layer or shared by all."""

    shared: bool = False

    def check(self, config: "ViTConfig") -> None:
        super().check(config)
        if config.prefix_tokens != config.has_class_token:
            raise InputError(
                "model.position_bias 'table' has rows for patches and a class token only: set "
                "model.registers to 0 and model.distillation to 'none'"
            )

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionBias:
        return TablePositionBias(config.grid, config.num_heads, config.has_class_token, rngs=rngs)


@POSITION_BIASES.register("mlp")
@dataclasses.dataclass(frozen=True)
class OffsetMlp(PositionBiasKind):
    """An MLP of the offset, for each layer or shared by all.

    Args:
      shared: whether all layers have the same MLP.
      hidden: hidden width of the MLP.
    """

    shared: bool = False
    hidden: int = 512

    def check(self, config: "ViTConfig") -> None:
        super().check(config)
        if self.hidden < 1:
            raise InputError(f"model.position_bias: hidden is {self.hidden}; give 1 or more")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionBias:
        return MlpPositionBias(
            config.grid, config.num_heads, config.prefix_tokens, self.hidden, rngs=rngs
        )

    def macs(self, config: "ViTConfig") -> int:
        """Multiply-accumulates of the MLP on every offset."""
        rows, columns = config.grid
        return (2 * rows - 1) * (2 * columns - 1) * self.hidden * (2 + config.num_heads)

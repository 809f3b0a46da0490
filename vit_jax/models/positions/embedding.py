"""Position embeddings (section 3.1, appendix D.4)."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models.attention.fused.choice import check_takes_bias
from vit_jax.registry import Registry

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

# Where it is added (table 8): after the patch embedding, or at the start of every layer, with
# separate or shared parameters. A relative one acts in the attention of every layer in any case;
# "layers" gives each layer its own parameters.
POSEMB_WHERE = ("stem", "layers", "layers_shared")

Grid = tuple[int, int]


class PositionEmbedding(nnx.Module):
    """Base class of position embeddings; itself adds nothing (table 8, first row)."""

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(B, N, D) -> (B, N, D); the last tokens are the patches by row."""
        return tokens

    def bias(self, query: jax.Array) -> jax.Array | None:
        """Bias on the attention logits from queries: (B, N, H, d) -> (B, H, N, N); None: none."""
        del query
        return None


class AddedPositionEmbedding(PositionEmbedding):
    """Adds a vector to every token; the subclass's `table` gives the vectors.

    Attributes:
      slots: number of tokens before the patches that get a vector; further ones get none.
    """

    slots: int

    def table(self) -> jax.Array:
        """The vectors (slots + rows * columns, D)."""
        raise NotImplementedError

    def __call__(self, tokens: jax.Array) -> jax.Array:
        table = self.table()
        without = tokens.shape[1] - len(table)
        if without:
            zeros = jnp.zeros((without, table.shape[1]), table.dtype)
            table = jnp.concatenate([table[: self.slots], zeros, table[self.slots :]])
        return tokens + table.astype(tokens.dtype)


class LearnedPositionEmbedding(AddedPositionEmbedding):
    """One learnt vector per position: the paper's 1-D embedding."""

    def __init__(self, grid: Grid, slots: int, width: int, *, std: float = 0.02, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(std)
        shape = (1, slots + grid[0] * grid[1], width)
        self.embedding = nnx.Param(normal(rngs.params(), shape, jnp.float32))
        self.slots = slots

    def table(self) -> jax.Array:
        return self.embedding[0]


class Learned2dPositionEmbedding(AddedPositionEmbedding):
    """The paper's 2-D embedding: a learnt vector of D/2 per column and one of D/2 per row.

    The two are concatenated. Tokens before the patches have no coordinates: each slot has a
    vector of D.
    """

    def __init__(self, grid: Grid, slots: int, width: int, *, std: float = 0.02, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(std)

        def learnt(*shape: int) -> nnx.Param:
            return nnx.Param(normal(rngs.params(), shape, jnp.float32))

        self.columns = learnt(grid[1], width // 2)
        self.rows = learnt(grid[0], width // 2)
        if slots:
            self.prefix = learnt(slots, width)
        self.slots = slots

    def table(self) -> jax.Array:
        columns, rows = self.columns[...], self.rows[...]
        shape = (len(rows), len(columns), columns.shape[1])
        x = jnp.broadcast_to(columns[None], shape)
        y = jnp.broadcast_to(rows[:, None], shape)
        patches = jnp.concatenate([x, y], axis=-1).reshape(shape[0] * shape[1], -1)
        return jnp.concatenate([self.prefix[...], patches]) if self.slots else patches


class SinCos2dPositionEmbedding(AddedPositionEmbedding):
    """Adds `sincos_2d` to patches; tokens before them (class, registers) get nothing."""

    slots = 0

    def __init__(self, grid: Grid, width: int, order: str, endpoint: bool):
        self.grid = grid
        self.width = width
        self.order = order
        self.endpoint = endpoint

    def table(self) -> jax.Array:
        return jnp.asarray(sincos_2d(self.grid, self.width, self.order, self.endpoint))


def sincos_2d(
    grid: Grid,
    width: int,
    order: str = "xy",
    endpoint: bool = True,
    temperature: float = 10_000.0,
) -> np.ndarray:
    """Fixed sines and cosines of a patch's column and row (2104.02057, 2205.01580).

    The four quarters of the features hold sin(x w), cos(x w), sin(y w) and cos(y w), at
    frequencies w that fall geometrically from 1.

    Args:
      grid: (rows, columns).
      width: D, divisible by 4.
      order: xy, or yx for the quarters of y first.
      endpoint: whether the lowest frequency is 1 / temperature, as in big_vision; otherwise that
        is the next one after the lowest, as in MAE (2111.06377).
      temperature: see `endpoint`.

    Returns:
      (rows * columns, D) in float32.
    """
    frequencies = temperature ** -np.linspace(0, 1, width // 4, endpoint=endpoint)
    y, x = (axis.reshape(-1, 1) * frequencies for axis in np.mgrid[: grid[0], : grid[1]])
    first, second = (x, y) if order == "xy" else (y, x)
    waves = [np.sin(first), np.cos(first), np.sin(second), np.cos(second)]
    return np.concatenate(waves, axis=1, dtype=np.float32)


class RelativePositionEmbedding(PositionEmbedding):
    """The paper's relative attention: each offset between two patches has a learnt key.

    Patches are numbered by row, so that P patches have 2 P - 1 offsets in one dimension.
    The product of a patch's query with the key of the offset, scaled like the attention logits,
    is added to them as a bias. Pairs with a token that is not a patch (class, registers) have
    no offset and no bias.

    `offsets` (2 P - 1, H, d) begins with the offset of a key P - 1 patches before its query.
    """

    def __init__(
        self, grid: Grid, num_heads: int, width: int, *, std: float = 0.02, rngs: nnx.Rngs
    ):
        normal = nnx.initializers.normal(std)
        shape = (2 * grid[0] * grid[1] - 1, num_heads, width // num_heads)
        self.offsets = nnx.Param(normal(rngs.params(), shape, jnp.float32))

    def bias(self, query: jax.Array) -> jax.Array:
        patches = (len(self.offsets) + 1) // 2
        before = query.shape[1] - patches
        query = query[:, before:] * query.shape[-1] ** -0.5
        keys = self.offsets[...].astype(query.dtype)
        logits = jnp.einsum("bphd,ohd->bhpo", query, keys, preferred_element_type=jnp.float32)
        return jnp.pad(align_offsets(logits), ((0, 0), (0, 0), (before, 0), (before, 0)))


def align_offsets(logits: jax.Array) -> jax.Array:
    """From offsets to keys: (..., P, 2 P - 1) -> (..., P, P), [q, k] from [q, k - q + P - 1].

    In the flattened array, the keys of each query begin 2 P - 2 numbers after those of the
    query before. A slice and a reshape thus replace a gather.
    """
    *lead, patches, offsets = logits.shape
    if patches == 1:
        return logits
    line = logits.reshape(*lead, patches * offsets)
    line = line[..., patches - 1 : patches - 1 + patches * (offsets - 1)]
    return line.reshape(*lead, patches, offsets - 1)[..., :patches]


class PositionEmbeddingKind:
    """A kind of position embedding: the value of `model.posemb`.

    A kind is a frozen dataclass, registered under its name in `POSITION_EMBEDDINGS`; its
    fields are the arguments in parentheses, as in "fourier(scale=2.0)".
    """

    has_slots = True  # whether tokens before the patches may have position embeddings

    def check(self, config: "ViTConfig") -> None:
        """Raises InputError where other options of the model do not suit this kind."""

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionEmbedding:
        """The module, for `config.grid` and `config.posemb_slots`."""
        raise NotImplementedError

    def macs(self, config: "ViTConfig") -> int:
        """Multiply-accumulates of an image's forward pass in one block."""
        del config
        return 0


POSITION_EMBEDDINGS: Registry[Callable[..., PositionEmbeddingKind]] = Registry("position embedding")


@POSITION_EMBEDDINGS.register("learned")
@dataclasses.dataclass(frozen=True)
class Learned(PositionEmbeddingKind):
    """One learnt vector per position."""

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionEmbedding:
        return LearnedPositionEmbedding(
            config.grid, config.posemb_slots, config.width, std=config.posemb_std, rngs=rngs
        )


@POSITION_EMBEDDINGS.register("learned2d")
@dataclasses.dataclass(frozen=True)
class Learned2d(PositionEmbeddingKind):
    """A learnt vector per column and one per row."""

    def check(self, config: "ViTConfig") -> None:
        if config.width % 2:
            raise InputError(f"posemb 'learned2d' needs an even width, not {config.width}")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionEmbedding:
        return Learned2dPositionEmbedding(
            config.grid, config.posemb_slots, config.width, std=config.posemb_std, rngs=rngs
        )


@POSITION_EMBEDDINGS.register("relative")
@dataclasses.dataclass(frozen=True)
class Relative(PositionEmbeddingKind):
    """A learnt key per offset between two patches."""

    has_slots = False

    def check(self, config: "ViTConfig") -> None:
        check_takes_bias(config.attention, "model.posemb 'relative'")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionEmbedding:
        return RelativePositionEmbedding(
            config.grid, config.num_heads, config.width, std=config.posemb_std, rngs=rngs
        )

    def macs(self, config: "ViTConfig") -> int:
        """Multiply-accumulates: each patch's query meets the key of every offset."""
        return config.num_patches * (2 * config.num_patches - 1) * config.width


@POSITION_EMBEDDINGS.register("sincos2d")
@dataclasses.dataclass(frozen=True)
class SinCos2d(PositionEmbeddingKind):
    """Fixed sines and cosines; see `sincos_2d`.

    The default is big_vision's. Those of MAE and of AIMv2 (2411.14402) for images of any size
    are sincos2d(endpoint=False).
    """

    order: str = "xy"
    endpoint: bool = True

    def check(self, config: "ViTConfig") -> None:
        if self.order not in ("xy", "yx"):
            raise InputError(f"model.posemb: order is {self.order!r}; it must be xy or yx")
        if config.posemb_where == "layers":
            raise InputError(
                "model.posemb 'sincos2d' is fixed, the same in all layers: set "
                "model.posemb_where to 'layers_shared'"
            )
        if config.width % 4:
            raise InputError(f"posemb 'sincos2d' needs a width divisible by 4, not {config.width}")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionEmbedding:
        del rngs
        return SinCos2dPositionEmbedding(config.grid, config.width, self.order, self.endpoint)


@POSITION_EMBEDDINGS.register("none")
@dataclasses.dataclass(frozen=True)
class NoPositions(PositionEmbeddingKind):
    """Patches without positions."""

    has_slots = False

    def check(self, config: "ViTConfig") -> None:
        if config.posemb_where != "stem":
            raise InputError(
                f"model.posemb_where {config.posemb_where!r} needs a model.posemb, not 'none'"
            )

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> PositionEmbedding:
        del config, rngs
        return PositionEmbedding()

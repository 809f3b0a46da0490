"""Rotary position embeddings: queries and keys of patches are rotated by angles (2104.09864).

A head's vector of d numbers is d / 2 pairs. Each pair of a query and a key is rotated by an angle
that is a frequency times a coordinate of the patch, so that their product depends on the
difference of coordinates. Tokens before the patches (class, registers) are not rotated.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models.layers import take_tokens
from vit_jax.registry import Registry

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

Grid = tuple[int, int]
LAYOUTS = ("half", "interleaved")
ORDERS = ("yx", "xy")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotation:
    """Angles by which queries and keys are rotated.

    Attributes:
      cos, sin: cosines and sines of the angles, broadcastable to (B, N, H, d / 2).
      layout: which numbers of a head's vector are a pair: half (i and i + d / 2) or interleaved
        (2 i and 2 i + 1).
    """

    cos: jax.Array
    sin: jax.Array
    layout: str = dataclasses.field(metadata=dict(static=True))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rotates queries or keys (B, N, H, d), in float32; tokens of padding become zero."""
        dtype, x = x.dtype, x.astype(jnp.float32)
        padding = [(0, 0)] * (self.cos.ndim - 3) + [(0, x.shape[1] - self.cos.shape[-3])]
        cos, sin = (jnp.pad(each, [*padding, (0, 0), (0, 0)]) for each in (self.cos, self.sin))
        if self.layout == "half":
            first, second = jnp.split(x, 2, axis=-1)
        else:
            pairs = x.reshape(*x.shape[:-1], -1, 2)
            first, second = pairs[..., 0], pairs[..., 1]
        rotated = (first * cos - second * sin, second * cos + first * sin)
        if self.layout == "half":
            return jnp.concatenate(rotated, axis=-1).astype(dtype)
        return jnp.stack(rotated, axis=-1).reshape(x.shape).astype(dtype)

    def among(self, kept: jax.Array) -> "Rotation":
        """The rotation of the tokens at the places `kept` (B, n), other ones for each example."""

        def take(x: jax.Array) -> jax.Array:
            if x.ndim == 4 and len(x) > 1:
                return take_tokens(x, kept)
            return (x[0] if x.ndim == 4 else x)[kept]

        return dataclasses.replace(self, cos=take(self.cos), sin=take(self.sin))


class RotaryEmbedding(nnx.Module):
    """Base class of rotary embeddings; itself rotates nothing."""

    def __call__(self, keys: jax.Array | None = None) -> Rotation | None:
        """The rotation of all tokens.

        Args:
          keys: (B,) one random key per example, None in evaluation.
        """
        del keys
        return None


def rotation_of(
    rotary: RotaryEmbedding, keys: jax.Array | None, kept: jax.Array | None
) -> Rotation | None:
    """The rotation of all tokens, or of those at the places `kept` (B, n)."""
    found = rotary(keys)
    return found if found is None or kept is None else found.among(kept)


def rotation(angles: jax.Array, prefix: int, layout: str) -> Rotation:
    """The rotation by angles of patches (..., N, H, d / 2); `prefix` tokens are not rotated."""
    zeros = [(0, 0)] * (angles.ndim - 3) + [(prefix, 0), (0, 0), (0, 0)]
    angles = jnp.pad(angles, zeros)
    return Rotation(jnp.cos(angles), jnp.sin(angles), layout)


class AxialRotaryEmbedding(RotaryEmbedding):
    """Half of the pairs rotate by the row of a patch, the other half by its column.

    Args:
      coordinates: (N, 2) coordinates of the patches.
      frequencies: (d / 4,) angle per unit of a coordinate.
      prefix: number of tokens before the patches.
      layout: one of LAYOUTS.
      rescale: in training both coordinates are multiplied by a factor drawn for each example,
        log-uniform from 1 / rescale to rescale; 1: not.
    """

    def __init__(
        self,
        coordinates: np.ndarray,
        frequencies: np.ndarray,
        *,
        prefix: int,
        layout: str,
        rescale: float = 1.0,
    ):
        # Tuples, because arrays would count as parameters.
        self.coordinates = tuple(map(tuple, coordinates.tolist()))
        self.frequencies = tuple(frequencies.tolist())
        self.prefix = prefix
        self.layout = layout
        self.rescale = rescale

    def __call__(self, keys: jax.Array | None = None) -> Rotation:
        coordinates = jnp.array(self.coordinates, jnp.float32)
        angles = coordinates[:, :, None] * jnp.array(self.frequencies, jnp.float32)
        angles = angles.reshape(len(coordinates), 1, -1)
        if keys is not None and self.rescale != 1.0:
            limit = math.log(self.rescale)
            draw = jax.vmap(lambda key: jax.random.uniform(key, (), minval=-limit, maxval=limit))
            angles = angles * jnp.exp(draw(keys))[:, None, None, None]
        return rotation(angles, self.prefix, self.layout)


class MixedRotaryEmbedding(RotaryEmbedding):
    """Each head has learnt frequencies for rows and columns of every pair (RoPE-Mixed, 2403.13298).

    `frequencies` is (2, H, d / 2), for the first and the second coordinate.
    """

    def __init__(
        self,
        coordinates: np.ndarray,
        num_heads: int,
        head_width: int,
        *,
        base: float,
        prefix: int,
        layout: str,
        rngs: nnx.Rngs,
    ):
        def init(key: jax.Array) -> jax.Array:
            """Axial frequencies, each head's axes turned by a random angle."""
            size = base ** -(jnp.arange(head_width // 4) * 4 / head_width)
            turn = 2 * math.pi * jax.random.uniform(key, (num_heads, 1))
            turns = jnp.stack([turn, turn + math.pi / 2], axis=1)
            waves = jnp.stack([jnp.cos(turns), jnp.sin(turns)]) * size
            return waves.reshape(2, num_heads, head_width // 2)

        self.frequencies = nnx.Param(init(rngs.params()))
        self.coordinates = tuple(map(tuple, coordinates.tolist()))
        self.prefix = prefix
        self.layout = layout

    def __call__(self, keys: jax.Array | None = None) -> Rotation:
        del keys
        first, second = jnp.array(self.coordinates, jnp.float32).T[:, :, None, None]
        frequencies = self.frequencies[...]
        angles = first * frequencies[0] + second * frequencies[1]
        return rotation(angles, self.prefix, self.layout)


class RotaryKind:
    """A kind of rotary embedding: the value of `model.rotary`.

    A kind is a frozen dataclass, registered under its name in `ROTARY_EMBEDDINGS`; its fields
    are the arguments in parentheses, as in "centred(base=50.0)".
    """

    per_layer = False  # whether every block has parameters of its own

    def check(self, config: "ViTConfig") -> None:
        """Raises InputError where other options of the model do not suit this kind."""
        head_width = config.width // config.num_heads
        if head_width % 4:
            raise InputError(
                f"model.rotary needs heads of a width divisible by 4, not {head_width}: change "
                "model.num_heads"
            )

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> RotaryEmbedding:
        """The module for `config.grid`."""
        raise NotImplementedError

    def _check_names(self, layout: str, order: str = "yx") -> None:
        for name, value, known in (("layout", layout, LAYOUTS), ("order", order, ORDERS)):
            if value not in known:
                raise InputError(
                    f"model.rotary: {name} is {value!r}; it must be {' or '.join(known)}"
                )


ROTARY_EMBEDDINGS: Registry[Callable[..., RotaryKind]] = Registry("rotary embedding")


@ROTARY_EMBEDDINGS.register("none")
@dataclasses.dataclass(frozen=True)
class NoRotary(RotaryKind):
    """Nothing is rotated."""

    def check(self, config: "ViTConfig") -> None:
        """Suits every model."""

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> RotaryEmbedding:
        del config, rngs
        return RotaryEmbedding()


@ROTARY_EMBEDDINGS.register("centred")
@dataclasses.dataclass(frozen=True)
class Centred(RotaryKind):
    """Coordinates are the centres of patches, from -1 to 1 across the image (DINOv3, 2508.10104).

    Args:
      base: ratio of the highest frequency to one beyond the lowest.
      rescale: range of the random scale of coordinates in training; 1: none.
      layout: one of LAYOUTS.
    """

    base: float = 100.0
    rescale: float = 1.0
    layout: str = "half"

    def check(self, config: "ViTConfig") -> None:
        super().check(config)
        self._check_names(self.layout)
        if self.base <= 0 or self.rescale < 1:
            raise InputError("model.rotary: base must be above 0, rescale at least 1")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> RotaryEmbedding:
        del rngs
        sides = [(np.arange(size) + 0.5) / size * 2 - 1 for size in config.grid]
        frequencies = 2 * math.pi * _frequencies(config, self.base)
        return AxialRotaryEmbedding(
            _pairs(sides, "yx"),
            frequencies,
            prefix=config.prefix_tokens,
            layout=self.layout,
            rescale=self.rescale,
        )


@ROTARY_EMBEDDINGS.register("indexed")
@dataclasses.dataclass(frozen=True)
class Indexed(RotaryKind):
    """Coordinates are the numbers of a patch's row and column (EVA-02 2303.11331, PE 2504.13181).

    Args:
      base: ratio of the highest frequency, 1, to one beyond the lowest.
      reference: rows and columns, one number for both, onto which other grids are scaled, so that
        the image always has the same range of coordinates; 0: no scaling.
      offset: number added to both before the scaling.
      order: yx (the first half of the pairs rotates by rows) or xy (by columns).
      layout: one of LAYOUTS.
    """

    base: float = 10_000.0
    reference: int | tuple[int, int] = 0
    offset: float = 0.0
    order: str = "yx"
    layout: str = "interleaved"

    def check(self, config: "ViTConfig") -> None:
        super().check(config)
        self._check_names(self.layout, self.order)
        if self.base <= 0:
            raise InputError("model.rotary: base must be above 0")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> RotaryEmbedding:
        del rngs
        wanted = self.reference if isinstance(self.reference, tuple) else (self.reference,) * 2
        sides = [
            (np.arange(size) + self.offset) * (reference / size if reference else 1.0)
            for size, reference in zip(config.grid, wanted)
        ]
        return AxialRotaryEmbedding(
            _pairs(sides, self.order),
            _frequencies(config, self.base),
            prefix=config.prefix_tokens,
            layout=self.layout,
        )


@ROTARY_EMBEDDINGS.register("mixed")
@dataclasses.dataclass(frozen=True)
class Mixed(RotaryKind):
    """Learnt frequencies in every layer and head, which mix rows and columns (2403.13298).

    Args:
      base: ratio of the highest initial frequency, 1, to one beyond the lowest.
      order: the order of the coordinates: yx or xy.
      layout: one of LAYOUTS.
    """

    base: float = 10.0
    order: str = "xy"
    layout: str = "interleaved"
    per_layer = True

    def check(self, config: "ViTConfig") -> None:
        super().check(config)
        self._check_names(self.layout, self.order)
        if self.base <= 0:
            raise InputError("model.rotary: base must be above 0")

    def create(self, config: "ViTConfig", rngs: nnx.Rngs) -> RotaryEmbedding:
        return MixedRotaryEmbedding(
            _pairs([np.arange(size) for size in config.grid], self.order),
            config.num_heads,
            config.width // config.num_heads,
            base=self.base,
            prefix=config.prefix_tokens,
            layout=self.layout,
            rngs=rngs,
        )


def _frequencies(config: "ViTConfig", base: float) -> np.ndarray:
    """(d / 4,) frequencies that fall geometrically from 1."""
    quarter = config.width // config.num_heads // 4
    return base ** -(np.arange(quarter) / quarter)


def _pairs(sides: list[np.ndarray], order: str) -> np.ndarray:
    """(N, 2) coordinates of all patches by row, from those of rows and of columns."""
    y, x = (axis.reshape(-1) for axis in np.meshgrid(*sides, indexing="ij"))
    return np.stack([y, x] if order == "yx" else [x, y], axis=-1).astype(np.float32)

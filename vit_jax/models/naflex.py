"""Images of any size and aspect ratio in one batch (NaFlex: 2307.06304, 2502.14786).

Every image is cut into as many patches as fit into a common length, in its own grid of rows and
columns; the rest is padding, which no token attends to. Position embeddings are resized to each
image's grid.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models.layers import Dense, normalize_pixels
from vit_jax.models.positions.embedding import AddedPositionEmbedding, PositionEmbedding

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig

METHODS = ("bilinear", "bicubic")  # of resizing position embeddings, with antialiasing
HEADER_BYTES = 4
# Added to the logits of keys that are padding: their weights become 0 in float32.
_HIDDEN = -1e30


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Patches:
    """A batch of images as patches.

    Attributes:
      values: (B, L, p, p, C), the patches of each image by row, then padding.
      grid: int32 (B, 2), rows and columns of each image; rows * columns is at most L.
    """

    values: jax.Array
    grid: jax.Array

    def __len__(self) -> int:
        return len(self.values)

    @property
    def mask(self) -> jax.Array:
        """Whether a place holds a patch: bool (B, L)."""
        count = self.grid[:, 0] * self.grid[:, 1]
        return jnp.arange(self.values.shape[1]) < count[:, None]


def packed_size(length: int, patch: int) -> tuple[int, int]:
    """(height, width) of the packed form of `length` patches of `patch` x `patch` pixels."""
    return length * patch + 1, patch


def pack(patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """One image's patches as one uint8 image (L p + 1, p, 3), in which they travel to the device.

    Patches lie below each other. The first bytes of the first row are the numbers of rows and
    columns, two bytes each, the lower first.

    Args:
      patches: uint8 (rows * columns or more, p, p, 3).
      grid: (rows, columns).
    """
    length, patch = patches.shape[:2]
    header = np.zeros((1, patch, 3), np.uint8)
    header.reshape(-1)[:HEADER_BYTES] = np.array(grid, "<u2").view(np.uint8)
    return np.concatenate([header, patches.reshape(length * patch, patch, 3)])


def unpack(images: jax.Array) -> Patches:
    """The inverse of `pack` for a batch: uint8 (B, L p + 1, p, 3) -> patches in uint8."""
    batch, _, patch, channels = images.shape
    header = images[:, 0].reshape(batch, -1)[:, :HEADER_BYTES].astype(jnp.int32)
    grid = header[:, ::2] + 256 * header[:, 1::2]
    return Patches(images[:, 1:].reshape(batch, -1, patch, patch, channels), grid)


def unpacked_image(packed: np.ndarray) -> np.ndarray:
    """The image in a packed one, uint8 (L p + 1, p, 3) -> (rows p, columns p, 3); see `pack`."""
    patch, channels = packed.shape[1:]
    rows, columns = packed[0].reshape(-1)[:HEADER_BYTES].copy().view("<u2").astype(int)
    patches = packed[1:].reshape(-1, patch, patch, channels)[: rows * columns]
    grid = patches.reshape(rows, columns, patch, patch, channels)
    return grid.swapaxes(1, 2).reshape(rows * patch, columns * patch, channels)


def model_inputs(
    images: jax.Array, config: Any, mean: Sequence[float], std: Sequence[float]
) -> jax.Array | Patches:
    """What a model takes, from images as they come from the data pipeline.

    Args:
      images: uint8 (B, H, W, 3) of `config.input_size`.
      config: configuration of the model.
      mean, std: normalisation of pixels / 255.

    Returns:
      Normalised images (B, H, W, 3) in float32, or patches for a model with `naflex`.
    """
    if not getattr(config, "naflex", 0):  # a task may have a model of its own
        return normalize_pixels(images, mean, std)
    patches = unpack(images)
    return dataclasses.replace(patches, values=normalize_pixels(patches.values, mean, std))


def padding_bias(patches: Patches, prefix: int) -> jax.Array:
    """The bias (B, 1, 1, N) on attention logits that hides padding; `prefix` tokens come first."""
    mask = jnp.pad(patches.mask, ((0, 0), (prefix, 0)), constant_values=True)
    return jnp.where(mask, 0.0, _HIDDEN)[:, None, None]


def resize_positions(
    table: jax.Array, old: tuple[int, int], grid: jax.Array, length: int, method: str
) -> jax.Array:
    """Position embeddings for each image's grid.

    Args:
      table: (R C, D) embeddings of a grid of R x C patches, by row.
      old: (R, C).
      grid: int32 (B, 2), rows and columns of each image.
      length: number of places L.
      method: one of METHODS; pixel centres and kernels are those of
        torch.nn.functional.interpolate with antialias.

    Returns:
      (B, L, D) in float32; places beyond an image's patches hold no meaning.
    """
    places = jnp.arange(length)
    columns = jnp.maximum(grid[:, 1:], 1)
    at = (places // columns, places % columns)  # row and column of each place (B, L)
    rows, columns = (
        _axis_weights(where, side, grid[:, axis, None], method)
        for axis, (where, side) in enumerate(zip(at, old))
    )
    weights = (rows[..., :, None] * columns[..., None, :]).reshape(*rows.shape[:2], -1)
    return jnp.einsum("blo,od->bld", weights, table.astype(jnp.float32))


def own_positions(posemb: PositionEmbedding, config: "ViTConfig", grid: jax.Array) -> jax.Array:
    """Position embeddings (B, N, D) of all tokens, for each image's grid (B, 2).

    Args:
      posemb: position embedding of the model's own grid, learnt or none.
      config: configuration of the model.
      grid: int32 (B, 2), rows and columns of each image.
    """
    batch = grid.shape[0]  # in an exported program a symbol, for which len() fails
    shape = (batch, config.num_tokens, config.width)
    if config.posemb == "none":
        return jnp.zeros(shape)
    assert isinstance(posemb, AddedPositionEmbedding)
    table, slots = posemb.table(), posemb.slots
    positions = resize_positions(
        table[slots:], config.grid, grid, config.naflex, config.naflex_resize
    )
    own = jnp.broadcast_to(table[:slots], (batch, slots, config.width))
    none = jnp.zeros((batch, config.prefix_tokens - slots, config.width))
    return jnp.concatenate([own, none, positions], axis=1)


def _axis_weights(where: jax.Array, old: int, new: jax.Array, method: str) -> jax.Array:
    """Weights (B, L, old) of old positions in the new positions `where` (B, L) of `new` (B, 1)."""
    scale = old / jnp.maximum(new, 1).astype(jnp.float32)
    position = (jnp.minimum(where, new - 1) + 0.5) * scale - 0.5
    stretch = jnp.maximum(scale, 1.0)[..., None]
    distance = jnp.abs(position[..., None] - jnp.arange(old)) / stretch
    weights = _triangle(distance) if method == "bilinear" else _cubic(distance)
    return weights / weights.sum(axis=-1, keepdims=True)


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1.0 - x, 0.0)


def _cubic(x: jax.Array) -> jax.Array:
    """The cubic convolution kernel (Keys 1981) with slope -0.5 at distance 1."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


class PatchEmbedding(Dense):
    """Equation 1: cuts an image into patches and projects each to the model's width.

    A reshape and a matrix product, equal to a strided convolution; the kernel has the
    convolution's layout (ph, pw, C, D).
    """

    def __init__(
        self,
        patch: tuple[int, int],
        channels: int,
        width: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
        bias: bool = True,
    ):
        init = nnx.initializers.lecun_normal()
        super().__init__(
            (*patch, channels), (width,), rngs=rngs, dtype=dtype, kernel_init=init, bias=bias
        )

    def __call__(self, images: jax.Array | Patches) -> jax.Array:
        """(B, H, W, C) -> (B, H/ph * W/pw, D); incomplete patches are cut off."""
        if isinstance(images, Patches):
            return super().__call__(images.values)
        ph, pw = self.kernel.shape[:2]
        batch, height, width, channels = images.shape
        rows, columns = height // ph, width // pw
        x = images[:, : rows * ph, : columns * pw]
        x = x.reshape(batch, rows, ph, columns, pw, channels).transpose(0, 1, 3, 2, 4, 5)
        return super().__call__(x.reshape(batch, rows * columns, ph, pw, channels))


def check_patches(patches: Patches, length: int, patch: tuple[int, int]) -> None:
    """Refuses patches of another number or size than the model's.

    Raises:
      InputError: names both shapes.
    """
    shape = patches.values.shape[1:]
    if shape != (length, *patch, 3) or patches.grid.shape[1:] != (2,):
        raise InputError(
            f"the model takes patches of shape (batch, {length}, {patch[0]}, {patch[1]}, 3) and "
            f"grids (batch, 2), got {patches.values.shape} and {patches.grid.shape}"
        )

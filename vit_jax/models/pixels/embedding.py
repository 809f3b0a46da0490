"""Pixels as tokens: the nearest colour of a palette, and a learnt vector for each colour."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vit_jax.models.vit_config import ViTConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pixels:
    """A batch of images as numbers of colours.

    Attributes:
      tokens: int32 (B, H * W), by row.
      hidden: bool (B, H * W), True for pixels whose vector is replaced by zeros (the BERT
        objective); None: none.
    """

    tokens: jax.Array
    hidden: jax.Array | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def nearest_colors(images: jax.Array, palette: jax.Array) -> jax.Array:
    """The palette's nearest colour of every pixel, by squared distance.

    Args:
      images: (B, H, W, 3), normalised as the palette's colours.
      palette: (K, 3).

    Returns:
      int32 (B, H * W), by row; of colours that are equally near, the first.
    """
    pixels = images.reshape(images.shape[0], -1, 3).astype(jnp.float32)
    products = lax.dot_general(
        pixels, palette, (((2,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
    )
    # The square of the pixel itself is the same for all colours.
    distances = jnp.square(palette).sum(-1) - 2 * products
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


class PixelEmbedding(nnx.Module):
    """Pixels -> tokens: each pixel's colour has a learnt vector (Chen et al. 2020, section 3.1).

    In an autoregressive model, the sequence begins with the learnt `start`, and the last pixel is
    left out: the token at place i stands for pixel i - 1, and predicts pixel i.

    `palette` (K, 3) holds the colours, in the units of normalised images. It is stored with the
    parameters, but never trained. New models have random colours; a run replaces them.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        colors, width = config.palette, config.width
        normal = nnx.initializers.normal(0.02)
        spread = jax.random.uniform(rngs.params(), (colors, 3), jnp.float32, -1.0, 1.0)
        self.palette = nnx.Param(spread)
        self.table = nnx.Param(normal(rngs.params(), (colors, width), jnp.float32))
        self.shifts = config.autoregressive
        if self.shifts:
            self.start = nnx.Param(normal(rngs.params(), (width,), jnp.float32))
        self.dtype = jnp.dtype(config.dtype)

    def tokens(self, images: jax.Array) -> jax.Array:
        """Numbers of colours (B, H * W) of images (B, H, W, 3)."""
        return nearest_colors(images, self.palette[...])

    def at(self, tokens: jax.Array, place: jax.Array) -> jax.Array:
        """The input (B, 1, D) at one place of an autoregressive model, from tokens (B, N)."""
        before = lax.dynamic_slice_in_dim(tokens, jnp.maximum(place - 1, 0), 1, axis=1)
        x = jnp.where(place == 0, self.start[...], jnp.asarray(self.table[...])[before])
        return x.astype(self.dtype)

    def __call__(self, images: jax.Array | Pixels) -> jax.Array:
        """Images (B, H, W, 3), or pixels -> (B, H * W, D)."""
        pixels = images if isinstance(images, Pixels) else Pixels(self.tokens(images))
        # An array of JAX even if the weights are NumPy's, as those of an exported program.
        x = jnp.asarray(self.table[...], self.dtype)[pixels.tokens]
        if pixels.hidden is not None:
            x = jnp.where(pixels.hidden[..., None], jnp.zeros((), x.dtype), x)
        if not self.shifts:
            return x
        start = self.start[...].astype(x.dtype)
        start = jnp.broadcast_to(start, (x.shape[0], 1, x.shape[-1]))
        return jnp.concatenate([start, x[:, :-1]], axis=1)

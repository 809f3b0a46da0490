"""Draws pixels from an autoregressive model of pixels, one after the other."""

import jax
import jax.numpy as jnp
from jax import lax

from vit_jax.models.pixels.embedding import Pixels
from vit_jax.models.pixels.vit import PixelViT


def complete(
    model: PixelViT,
    tokens: jax.Array,
    keep: jax.Array | int,
    key: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
) -> jax.Array:
    """Draws the pixels from place `keep` on, each given all before it (iGPT, appendix).

    Every pixel takes a forward pass of the whole sequence: keys and values are not kept.

    Args:
      model: autoregressive model with a colour head.
      tokens: int32 (B, H * W), colours; those from place `keep` on are not used.
      keep: number of pixels that are given; 0: none.
      key: random key.
      temperature: logits are divided by it; 0: the most probable colour.
      top_k: number of most probable colours to draw from; 0: all.

    Returns:
      int32 (B, H * W).
    """

    def draw(place: jax.Array, tokens: jax.Array) -> jax.Array:
        logits = model.colors_at(Pixels(tokens), place)
        if top_k:
            least = lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if temperature:
            drawn = jax.random.categorical(jax.random.fold_in(key, place), logits / temperature)
        else:
            drawn = logits.argmax(-1)
        return tokens.at[:, place].set(drawn.astype(tokens.dtype))

    return lax.fori_loop(keep, tokens.shape[1], draw, tokens)

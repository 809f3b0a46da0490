"""Draws pixels from an autoregressive model of pixels, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vit_jax.models.pixels.embedding import Pixels
from vit_jax.models.pixels.vit import PixelViT
from vit_jax.models.positions.embedding import AddedPositionEmbedding
from vit_jax.models.vit_config import ViTConfig

Draw = Callable[[jax.Array, jax.Array], jax.Array]  # (place, logits (B, K)) -> colours (B,)


def complete(
    model: PixelViT,
    tokens: jax.Array,
    keep: jax.Array | int,
    key: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    cache: bool = True,
) -> jax.Array:
    """Draws the pixels from place `keep` on, each given all before it (iGPT, appendix).

    Args:
      model: autoregressive model with a colour head.
      tokens: int32 (B, H * W), colours; those from place `keep` on are not used.
      keep: number of pixels that are given; 0: none.
      key: random key.
      temperature: logits are divided by it; 0: the most probable colour.
      top_k: number of most probable colours to draw from; 0: all.
      cache: whether to keep the keys and values of earlier pixels where the model's parts allow
        it; otherwise each pixel takes a forward pass of the whole sequence.

    Returns:
      int32 (B, H * W).
    """

    def draw(place: jax.Array, logits: jax.Array) -> jax.Array:
        if top_k:
            least = lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if not temperature:
            return logits.argmax(-1)
        return jax.random.categorical(jax.random.fold_in(key, place), logits / temperature)

    if cache and _can_cache(model.config):
        return _with_cache(model, tokens, keep, draw)

    def next_pixel(place: jax.Array, tokens: jax.Array) -> jax.Array:
        drawn = draw(place, model.colors_at(Pixels(tokens), place))
        return tokens.at[:, place].set(drawn.astype(tokens.dtype))

    return lax.fori_loop(keep, tokens.shape[1], next_pixel, tokens)


def _can_cache(config: ViTConfig) -> bool:
    """Whether all parts of the model can compute one token after those before it."""
    usual = dict(
        attention_kind="causal",
        block="sequential",
        posemb_where="stem",
        rotary="none",
        position_bias="none",
        patch_norm=False,
        norm_pre=False,
    )
    parts = all(getattr(config, name) == value for name, value in usual.items())
    return parts and config.posemb.partition("(")[0] != "relative"


def _with_cache(model: PixelViT, tokens: jax.Array, keep: jax.Array | int, draw: Draw) -> jax.Array:
    """`complete`, with the keys and values of all pixels in memory: 2 L B N D numbers."""
    config = model.config
    graphdef, params = nnx.split(model.blocks)
    heads = (config.num_heads, config.width // config.num_heads)
    kept = jnp.zeros((config.depth, *tokens.shape, *heads), jnp.dtype(config.dtype))
    table = jnp.zeros((tokens.shape[1], config.width))
    if isinstance(model.posemb, AddedPositionEmbedding):
        table = model.posemb.table()

    def apply_block(carry: Any, layer: Any) -> tuple[Any, None]:
        x, keys, values, place = carry
        block_params, index = layer
        block: Any = nnx.merge(graphdef, block_params)
        x, key, value = block.step(x, keys[index], values[index], place)
        return (x, keys.at[index].set(key), values.at[index].set(value), place), None

    def next_pixel(place: jax.Array, carry: Any) -> Any:
        tokens, keys, values = carry
        x = model.embedding.at(tokens, place)
        x = x + table[place].astype(x.dtype)
        carry = (x, keys, values, place)
        layers = (params, jnp.arange(config.depth))
        (x, keys, values, _), _ = lax.scan(apply_block, carry, layers)
        x = model.norm(x) if config.final_norm else x
        drawn = draw(place, model.color_head(x[:, 0]).astype(jnp.float32))
        own = jnp.where(place < keep, tokens[:, place], drawn.astype(tokens.dtype))
        return tokens.at[:, place].set(own), keys, values

    return lax.fori_loop(0, tokens.shape[1], next_pixel, (tokens, kept, kept))[0]

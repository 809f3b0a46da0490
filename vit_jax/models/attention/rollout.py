"""Attention rollout (2005.00928), by which the paper shows where the model looks (appendix D.8)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.naflex import Patches
from vit_jax.models.vit_config import ViTConfig

Grid = tuple[int, int]  # rows and columns of patches


def rollout(weights: jax.Array) -> jax.Array:
    """Attention rollout: the share of each input token in each output token (2005.00928).

    Used in figures 6 and 14. It averages heads, adds the identity for the residual connection,
    scales rows to add up to 1, and multiplies the layers.

    Args:
      weights: (layers, ..., heads, N, N), the first layer first.

    Returns:
      (..., N, N): output token, input token; rows add up to 1.
    """
    mixing = weights.mean(-3) + jnp.eye(weights.shape[-1])
    mixing = mixing / mixing.sum(-1, keepdims=True)
    result = mixing[0]
    for layer in mixing[1:]:
        result = layer @ result
    return result


def rollout_map(flow: jax.Array, grid: Grid, prefix: int, *, class_token: bool) -> jax.Array:
    """The share of each patch in the input of the classifier, by `rollout`.

    Args:
      flow: (..., N, N), result of `rollout`.
      grid: rows and columns.
      prefix: number of tokens before the patches.
      class_token: whether the classifier takes the class token, which comes first; otherwise it
        takes the mean of the patches.

    Returns:
      (..., rows, columns).
    """
    seen = flow[..., 0, prefix:] if class_token else flow[..., prefix:, prefix:].mean(-2)
    return seen.reshape(*seen.shape[:-1], *grid)


def image_rollout(
    config: ModelConfig, out: Mapping[str, jax.Array], images: jax.Array | Patches
) -> jax.Array:
    """`rollout_map` of images, from the intermediates of a model.

    Args:
      config: configuration of the model.
      out: intermediates by name, see `ViT.__call__`.
      images: what the model took.

    Returns:
      (B, rows, columns); (B, L) for NaFlex, where the shares of an image's patches by row come
      first and padding has none.

    Raises:
      InputError: a model whose tokens do not attend to all tokens.
    """
    if not isinstance(config, ViTConfig):
        raise InputError("attention: a ResNet has no attention")
    names = [f"block{i:02}/attention" for i in range(config.depth)]
    if names[0] not in out:
        raise InputError(
            "attention: rollout needs blocks with one attention among all tokens; this model has "
            f"attention_kind {config.attention_kind!r} and block {config.block!r}"
        )
    flow = rollout(jnp.stack([out[name] for name in names]).astype(jnp.float32))
    prefix, has_token = config.prefix_tokens, config.head == "token"
    if not isinstance(images, Patches):
        return rollout_map(flow, config.grid, prefix, class_token=has_token)
    if has_token:
        return flow[:, 0, prefix:]
    return flow[:, prefix:, prefix:].mean(1, where=images.mask[..., None])

"""Attention rollout drawn over single images (2005.00928; figure 6 of the paper)."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.figures import attention
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig

SIDE = 224  # pixels of the shorter side of a picture, at least
OPACITY = 0.6  # of the colours over the image
_WEIGHT_BYTES = 2**30  # bytes of attention weights on the device at a time


def check_attention(config: ModelConfig, name: str) -> ViTConfig:
    """Refuses models without attention among all patches of images of one size.

    Args:
      config: configuration of the model.
      name: name of the weights, for messages.
    """
    if not isinstance(config, ViTConfig):
        raise InputError(f"{name} is a ResNet: it has no attention to draw")
    if config.naflex:
        raise InputError(
            f"{name} takes images of any size (model.naflex); attention is drawn for one size"
        )
    graphdef, params = models.abstract(functools.partial(models.build_model, config))

    def apply(params: Any, images: jax.Array) -> Mapping[str, jax.Array]:
        model: Any = models.merge(graphdef, params)
        return model(images, return_intermediates=True)[1]

    images = jax.ShapeDtypeStruct((1, *config.image_size, 3), jnp.float32)
    tokens = config.num_tokens
    found = jax.eval_shape(apply, params, images).get("block00/attention")
    if found is None or found.shape[-2:] != (tokens, tokens):
        raise InputError(f"{name}: its attention is not among all patches, so there is no rollout")
    return config


def rollout_maps(out: Mapping[str, jax.Array], config: ViTConfig) -> jax.Array:
    """The share of each patch in the input of the head (B, rows, columns), traced.

    Args:
      out: the model's intermediates.
      config: configuration of the model; see `check_attention`.
    """
    weights = jnp.stack([out[f"block{i:02}/attention"] for i in range(config.depth)])
    flow = attention.rollout(weights.astype(jnp.float32))
    class_token = config.head == "token"
    return attention.rollout_map(flow, config.grid, config.prefix_tokens, class_token=class_token)


def batch_size(config: ViTConfig, most: int) -> int:
    """Images at a time, so that their attention weights fit into memory."""
    each = 4 * config.depth * config.num_heads * config.num_tokens**2
    return int(np.clip(_WEIGHT_BYTES // each, 1, most))


def attention_picture(image: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """An image, and beside it the same under the colours of its rollout.

    Args:
      image: uint8 (h, w, 3).
      seen: share of each patch, (rows, columns); the largest is drawn brightest.

    Returns:
      uint8 (H, 2 W + a gap, 3); small images are enlarged.

    Raises:
      InputError: matplotlib is not installed.
    """
    from PIL import Image

    scale = max(1, -(-SIDE // min(image.shape[:2])))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    plain = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.NEAREST))
    low, high = float(seen.min()), float(seen.max())
    share = (np.asarray(seen, np.float32) - low) / max(high - low, 1e-12)
    smooth = Image.fromarray(share).resize(size, Image.Resampling.BICUBIC)
    colours = 255 * color_map()(np.clip(np.asarray(smooth), 0, 1))[..., :3]
    drawn = (1 - OPACITY) * plain + OPACITY * colours
    gap = np.full((size[1], max(4, size[0] // 50), 3), 255)
    return np.concatenate([plain, gap, drawn], axis=1).round().astype(np.uint8)


def color_map() -> Any:
    """matplotlib's colours from dark (0) to bright (1).

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'vit_jax[figures]'") from None
    return matplotlib.colormaps["inferno"]

"""Analytic cost of a model per image.

Counted are convolutions and matrix products, those of attention included:
1 MAC = 1 multiply-accumulate = 2 FLOPs, as in table 6. Counting is by hand because
XLA's cost analysis counts the body of a scan once, whatever its length.
"""

import functools
from typing import Any

from vit_jax.models.vit import ViTConfig


@functools.singledispatch
def macs(config: Any) -> int:
    """Multiply-accumulates of one image's forward pass.

    Other model families register their configuration class with `macs.register`.

    Raises:
      TypeError: no family has registered the class of `config`.
    """
    raise TypeError(f"no MAC count for a {type(config).__name__}")


@macs.register
def vit_macs(config: ViTConfig) -> int:
    """MACs of a ViT (section 3.1): patch embedding, encoder, head."""
    patches = config.grid[0] * config.grid[1]
    patch_pixels = config.patch_size[0] * config.patch_size[1]
    embedding = patches * patch_pixels * 3 * config.width
    return embedding + encoder_macs(config) + head_macs(config)


def encoder_macs(config: ViTConfig) -> int:
    """MACs of the Transformer blocks: projections, attention's two products, MLPs."""
    tokens, width = config.num_tokens, config.width
    projections = 4 * tokens * width**2
    attention = 2 * tokens**2 * width
    mlp = 2 * tokens * width * config.mlp_dim
    return config.depth * (projections + attention + mlp)


def head_macs(config: ViTConfig) -> int:
    """MACs from the encoded tokens to the logits: MAP pooling, pre_logits, classifier."""
    width = config.width
    pooling = _attention_pool_macs(config) if config.head == "map" else 0
    classifier = config.feature_width * config.num_classes
    return pooling + width * config.pre_logits + classifier


def _attention_pool_macs(config: ViTConfig) -> int:
    """One probe attends to all tokens: query and output of the probe, keys and values of all."""
    tokens, width = config.num_tokens, config.width
    return 2 * width**2 + 2 * tokens * (width**2 + width) + 2 * width * config.mlp_dim


def forward_flops(config: Any) -> int:
    """FLOPs of one image's forward pass."""
    return 2 * macs(config)


def train_flops(config: Any) -> int:
    """FLOPs of one image's forward and backward pass.

    The backward pass has two products (by the inputs, by the weights) for each of the
    forward's. What remat computes twice is not useful work and does not count: MFU.
    """
    return 3 * forward_flops(config)

"""Analytic cost of a model per image.

Counted are convolutions and matrix products, those of attention included:
1 MAC = 1 multiply-accumulate = 2 FLOPs. A convolution counts its taps on padding too.
Counting is by hand because XLA's cost analysis counts the body of a scan once,
whatever its length.
"""

import functools
from collections.abc import Sequence
from typing import Any

from vit_jax.models.resnet import BiTConfig, feature_channels
from vit_jax.models.vit import ViTConfig


@functools.singledispatch
def macs(config: Any) -> int:
    """Multiply-accumulates of one image's forward pass.

    A model family takes part by registering its configuration class (`macs.register`).

    Raises:
      TypeError: no family has registered the class of `config`.
    """
    raise TypeError(f"no MAC count for a {type(config).__name__}")


@macs.register
def vit_macs(config: ViTConfig) -> int:
    """MACs of a ViT or hybrid (section 3.1): stem, patch embedding, encoder, head."""
    channels, stem = 3, 0
    if config.resnet_stages is not None:
        channels = feature_channels(config.resnet_stages, config.resnet_width)
        stem = resnet_macs(config.image_size, config.resnet_stages, config.resnet_width)
    patches = config.grid[0] * config.grid[1]
    values_per_patch = config.patch_size[0] * config.patch_size[1] * channels
    embedding = patches * values_per_patch * config.width
    return stem + embedding + encoder_macs(config) + head_macs(config)


@macs.register
def bit_macs(config: BiTConfig) -> int:
    """MACs of a BiT ResNet with its classifier."""
    stem = resnet_macs(config.image_size, config.resnet_stages, config.resnet_width)
    return stem + config.feature_width * config.num_classes


def encoder_macs(config: ViTConfig) -> int:
    """MACs of the Transformer blocks: projections, attention's two products, MLPs."""
    tokens, width = config.num_tokens, config.width
    projections = 4 * tokens * width**2
    attention = 2 * tokens**2 * width
    matrices = 3 if config.mlp == "swiglu" else 2
    mlp = matrices * tokens * width * config.mlp_dim
    return config.depth * (projections + attention + mlp)


def head_macs(config: ViTConfig) -> int:
    """MACs from the encoded tokens to the logits: pooling, pre_logits, classifiers."""
    pooling = _attention_pool_macs(config) if config.head == "map" else 0
    pre_logits = config.pooled_width * config.pre_logits
    classifiers = config.feature_width + config.width * (config.distillation == "head")
    return pooling + pre_logits + classifiers * config.num_classes


def _attention_pool_macs(config: ViTConfig) -> int:
    """One probe attends to the patches: query and output once, key and value of each patch."""
    patches, width = config.grid[0] * config.grid[1], config.width
    return 2 * width**2 + 2 * patches * (width**2 + width) + 2 * width * config.mlp_dim


def resnet_macs(image_size: tuple[int, int], stages: Sequence[int], width: int) -> int:
    """MACs of a ResNet's convolutions up to its last map (1912.11370)."""
    rows, columns = _halve(image_size)
    channels = 64 * width
    total = rows * columns * 7 * 7 * 3 * channels
    size = _halve((rows, columns))
    for i, units in enumerate(stages):
        middle = 64 * width * 2**i
        for j in range(units):
            reduced = _halve(size) if i > 0 and j == 0 else size
            total += _unit_macs(size, reduced, channels, middle, project=j == 0)
            size, channels = reduced, 4 * middle
    return total


def _unit_macs(
    size: tuple[int, int], reduced: tuple[int, int], inputs: int, middle: int, *, project: bool
) -> int:
    """A bottleneck: the first 1x1 convolution sees the full map, the others the reduced one."""
    outputs = 4 * middle
    per_reduced = 9 * middle**2 + middle * outputs + project * inputs * outputs
    return size[0] * size[1] * inputs * middle + reduced[0] * reduced[1] * per_reduced


def _halve(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


def forward_flops(config: Any) -> int:
    """FLOPs of one image's forward pass."""
    return 2 * macs(config)


def train_flops(config: Any) -> int:
    """FLOPs of one image's forward and backward pass.

    The backward pass has two products (by the inputs, by the weights) for each of the
    forward's. What remat computes twice is no useful work and does not count in MFU.
    """
    return 3 * forward_flops(config)

"""Analytic cost of a model: parameters, and operations per image.

Counted are convolutions and matrix products, those of attention included:
1 MAC = 1 multiply-accumulate = 2 FLOPs. In convolutions, products with padding count too,
unless `padding=False`, which is how the paper counts in table 6. XLA's cost analysis is not
used because it counts the body of a scan once, whatever its length.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection
from typing import Any

import jax
from flax import nnx

from vit_jax.models.block import create_blocks
from vit_jax.models.config import BiTConfig, ModelConfig, feature_channels
from vit_jax.models.variants import build_model
from vit_jax.models.vit_config import ViTConfig


def parameters(config: ModelConfig) -> int:
    """Number of parameters; makes no model, only the shapes of one block and position embedding.

    Raises:
      TypeError: no count for the class of `config`.
    """
    classes = config.num_classes
    if isinstance(config, BiTConfig):
        return resnet_parameters(config, config.preact) + (config.feature_width + 1) * classes
    if not isinstance(config, ViTConfig):
        raise TypeError(f"no parameter count for a {type(config).__name__}")
    total = 0
    if config.resnet_stages is not None:
        rows, columns = config.patch_size
        channels = feature_channels(config.stages, config.resnet_width)
        total += resnet_parameters(config, preact=False)
        total += rows * columns * (channels - 3) * config.width
        size = (config.grid[0] * rows, config.grid[1] * columns)
        config = dataclasses.replace(config, resnet_stages=None, image_size=size)
    one = dataclasses.replace(config, depth=1)
    total += _made_by(lambda rngs: build_model(one, rngs))
    return total + (config.depth - 1) * _made_by(lambda rngs: create_blocks(one, rngs))


def resnet_parameters(config: ModelConfig, preact: bool) -> int:
    """Number of parameters of a ResNet; arguments as `resnet_macs`."""
    channels = 64 * config.resnet_width
    total = 7 * 7 * 3 * channels + (0 if preact else 2 * channels)
    for i, units in enumerate(config.stages):
        middle = 64 * config.resnet_width * 2**i
        outputs = 4 * middle
        for j in range(units):
            project = channels * outputs if j == 0 else 0
            total += channels * middle + 9 * middle**2 + middle * outputs + project
            norms = (
                channels + 2 * middle if preact else 2 * middle + outputs * (2 if project else 1)
            )
            total += 2 * norms
            channels = outputs
    return total + (2 * channels if preact else 0)


def _made_by(create: Callable[[nnx.Rngs], nnx.Module]) -> int:
    """Number of parameters of a module, by their shapes."""
    params = nnx.state(nnx.eval_shape(lambda: create(nnx.Rngs(0))), nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@functools.singledispatch
def macs(config: Any, *, padding: bool = True) -> int:
    """Multiply-accumulates of one image's forward pass.

    A model family takes part by registering its configuration class (`macs.register`).

    Args:
      config: configuration of the model.
      padding: whether to count products of convolutions with padding.

    Raises:
      TypeError: no family has registered the class of `config`.
    """
    raise TypeError(f"no MAC count for a {type(config).__name__}")


@macs.register
def vit_macs(config: ViTConfig, *, padding: bool = True) -> int:
    """MACs of a ViT or hybrid (section 3.1): stem, patch embedding, encoder, head."""
    return _embedding_macs(config, padding) + encoder_macs(config) + head_macs(config)


def _embedding_macs(config: ViTConfig, padding: bool = True) -> int:
    """MACs up to the embedded patches; with a palette, those of the distances to its colours."""
    if config.palette:
        return config.num_patches * 3 * config.palette
    channels, stem = 3, 0
    if config.resnet_stages is not None:
        channels = feature_channels(config.stages, config.resnet_width)
        stem = resnet_macs(config, preact=False, padding=padding)
    values_per_patch = config.patch_size[0] * config.patch_size[1] * channels
    return stem + config.num_patches * values_per_patch * config.width


@macs.register
def bit_macs(config: BiTConfig, *, padding: bool = True) -> int:
    """MACs of a BiT ResNet with its classifier."""
    stem = resnet_macs(config, preact=config.preact, padding=padding)
    return stem + config.feature_width * config.num_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InTraining(ViTConfig):
    """A ViT whose images have the patches that patch dropout keeps."""

    @property
    def num_patches(self) -> int:
        return max(1, self.kept)

    kept: int = 0


def in_training(config: ViTConfig) -> ViTConfig:
    """The configuration with as many patches as patch dropout keeps; for counting alone."""
    if not config.patch_dropout:
        return config
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return _InTraining(**own | dict(patch_dropout=0.0), kept=config.kept_patches)


def training_macs(config: Any) -> int:
    """`macs` in training, where patch dropout leaves patches out of the encoder."""
    if not isinstance(config, ViTConfig):
        return macs(config)
    shorter = in_training(config)
    return _embedding_macs(config) + encoder_macs(shorter) + head_macs(shorter)


@dataclasses.dataclass(frozen=True)
class Product:
    """Matrix products of one image's forward pass, all with weights of one kind.

    Attributes:
      macs: multiply-accumulates of the forward pass.
      weights: pattern of the paths of their weights; "": both factors are activations.
      before: pattern of all parameters on which the other factor may depend.
    """

    macs: int
    weights: str
    before: str

    def spared(self, trained: Collection[str]) -> int:
        """Multiply-accumulates that the backward pass leaves out, of twice `macs`."""

        def any_of(pattern: str) -> bool:
            return any(re.fullmatch(pattern, path) for path in trained)

        if not self.weights:
            return 0 if any_of(self.before) else 2 * self.macs
        return self.macs * ((not any_of(self.weights)) + (not any_of(self.before)))


_EMBEDDING = "(stem|embedding)/.*"
_BEFORE = f"{_EMBEDDING}|cls|dist|registers|(patch_norm|norm_pre|posemb|rotary|position_bias)/.*"
_ENCODER = f"{_BEFORE}|blocks/.*"
_POOLED = f"{_ENCODER}|(norm|map_head)/.*"


def training_products(config: Any) -> list[Product]:
    """The products that `training_macs` counts, in groups; [] for families of other modules.

    As is usual, the gradient of the images is counted where the embedding is trained. A stem
    counts as one group.
    """
    if isinstance(config, BiTConfig):
        stem = bit_macs(config) - config.feature_width * config.num_classes
        return [
            Product(stem, "(?!head/).*kernel", "(?!head/).*"),
            Product(config.feature_width * config.num_classes, "head/kernel", "(?!head/).*"),
        ]
    if not isinstance(config, ViTConfig):
        return []
    short = in_training(config)
    tokens, width = short.num_tokens, config.width
    branches = config.depth * config.kind.branches * config.block_kind.branches
    square, wide = branches * tokens * width**2, branches * tokens * width * config.mlp_dim
    positions = encoder_macs(short) - attention_macs(short) - 4 * square
    positions -= (3 if config.mlp == "swiglu" else 2) * wide
    stem = 0
    if config.resnet_stages is not None:
        stem = resnet_macs(config, preact=False)
    pooled = config.pooled_width
    heads = head_macs(short) - pooled * (config.pre_logits + config.projection)
    classes = config.feature_width * config.num_classes
    token = width * (config.distillation == "head") * config.num_classes
    return [
        Product(stem, "stem/.*kernel", "stem/.*"),
        Product(_embedding_macs(config) - stem, "embedding/kernel", _EMBEDDING),
        Product(3 * square, "blocks/(.*/)?qkv/kernel", _ENCODER),
        Product(square, "blocks/(.*/)?out/kernel", _ENCODER),
        Product(attention_macs(short), "", _ENCODER),
        Product(
            wide * (2 if config.mlp == "swiglu" else 1), "blocks/(.*/)?(fc1|gated)/kernel", _ENCODER
        ),
        Product(wide, "blocks/(.*/)?fc2/kernel", _ENCODER),
        Product(positions, "(.*/)?(posemb|position_bias)/.*", _ENCODER),
        Product(heads - classes - token, "map_head/.*kernel", _POOLED),
        Product(pooled * config.projection, "projection/kernel", _POOLED),
        Product(pooled * config.pre_logits, "pre_logits/kernel", f"{_POOLED}|projection/.*"),
        Product(classes, "head/kernel", f"{_POOLED}|(projection|pre_logits)/.*"),
        Product(token, "head_dist/kernel", _POOLED),
    ]


def encoder_macs(config: ViTConfig) -> int:
    """MACs of the Transformer blocks: projections, MLPs, attention's two products, positions."""
    tokens, width = config.num_tokens, config.width
    projections = config.kind.projection_macs(config)
    matrices = 3 if config.mlp == "swiglu" else 2
    mlp = matrices * tokens * width * config.mlp_dim
    branches = config.kind.branches * config.block_kind.branches * (projections + mlp)
    positions = config.posemb_kind.macs(config)
    if not config.position_bias_kind.shared:
        positions += config.position_bias_kind.macs(config)
    return config.depth * (branches + positions) + attention_macs(config) + _shared_macs(config)


def _shared_macs(config: ViTConfig) -> int:
    """MACs of a position bias that is computed once for all blocks."""
    kind = config.position_bias_kind
    return kind.macs(config) if kind.shared else 0


def attention_macs(config: ViTConfig) -> int:
    """MACs of queries with keys and of weights with values, in all blocks."""
    return config.block_kind.branches * config.kind.all_macs(config)


def saved_by_kind(config: Any) -> float | None:
    """Share of the blocks' MACs that the attention kind saves against full attention.

    None: the model has full attention, or is no ViT. Below 0: the kind has more.
    """
    if not isinstance(config, ViTConfig) or config.attention_kind == "full":
        return None
    own = attention_macs(config)
    full = config.depth * config.block_kind.branches * 2 * config.num_tokens**2 * config.width
    return (full - own) / (encoder_macs(config) - own + full)


def head_macs(config: ViTConfig) -> int:
    """MACs from the encoded tokens to the logits: pooling, pre_logits, classifiers."""
    pooling = _attention_pool_macs(config) if config.head == "map" else 0
    dense = config.pooled_width * (config.pre_logits + config.projection)
    classifiers = config.feature_width + config.width * (config.distillation == "head")
    return pooling + dense + classifiers * config.num_classes


def color_macs(config: ViTConfig) -> int:
    """MACs of the head that predicts the colour of every pixel; only some tasks use it."""
    return config.num_patches * config.width * config.palette if config.color_head else 0


def _attention_pool_macs(config: ViTConfig) -> int:
    """One probe attends to the tokens: query and output once, key and value of each token."""
    tokens, width = config.num_patches, config.width
    if config.pool_prefix:
        tokens = config.num_tokens
    mlp_dim = config.map_mlp_dim or config.mlp_dim
    return 2 * width**2 + 2 * tokens * (width**2 + width) + 2 * width * mlp_dim


def resnet_macs(config: ModelConfig, *, preact: bool, padding: bool = True) -> int:
    """MACs of a ResNet's convolutions up to its last map (1912.11370).

    Args:
      config: configuration; only `image_size`, `resnet_stages` and `resnet_width` are used.
      preact: arrangement of the units, which decides whether padding is symmetric.
      padding: whether to count products with padding.
    """

    def taps(size: tuple[int, int], kernel: int, stride: int) -> int:
        """Output positions times kernel elements over a map of `size`, in both directions."""
        rows, columns = (_taps(side, kernel, stride, preact, padding) for side in size)
        return rows * columns

    channels = 64 * config.resnet_width
    total = taps(config.image_size, 7, 2) * 3 * channels
    size = _halve(_halve(config.image_size))
    for i, units in enumerate(config.stages):
        middle = 64 * config.resnet_width * 2**i
        outputs = 4 * middle
        for j in range(units):
            stride = 2 if i > 0 and j == 0 else 1
            total += taps(size, 1, 1) * channels * middle + taps(size, 3, stride) * middle**2
            size = size if stride == 1 else _halve(size)
            project = channels if j == 0 else 0
            total += taps(size, 1, 1) * (middle + project) * outputs
            channels = outputs
    return total


def _taps(side: int, kernel: int, stride: int, symmetric: bool, padding: bool) -> int:
    """Along one axis: outputs times kernel elements, without those on padding if asked for."""
    outputs = -(-side // stride)
    if padding:
        return outputs * kernel
    total = max((outputs - 1) * stride + kernel - side, 0)
    before = kernel // 2 if symmetric else total // 2
    starts = (output * stride - before for output in range(outputs))
    return sum(min(start + kernel, side) - max(start, 0) for start in starts)


def _halve(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


def forward_flops(config: Any) -> int:
    """FLOPs of one image's forward pass."""
    return 2 * macs(config)


def train_flops(config: Any) -> int:
    """FLOPs of one image's forward and backward pass.

    The backward pass has two products (gradients of the inputs and of the weights) for each
    one of the forward pass. Recomputation by remat is not counted, as in MFU.
    """
    return 6 * training_macs(config)

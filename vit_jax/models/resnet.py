"""ResNets with group norm and standardised convolutions ("BiT", 1912.11370).

They are the paper's baseline classifiers and, with fewer stages, the stem of its hybrids
(section 3.1). There are two arrangements; both can be loaded and trained:

post-activation (ResNet v1): the paper's hybrids and baselines; SAME padding.
pre-activation (ResNet v2): the published BiT weights; symmetric padding.
"""

from collections.abc import Callable
from typing import Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vit_jax.models import layers
from vit_jax.models.config import BiTConfig, ModelConfig
from vit_jax.models.forms.remat import POLICIES
from vit_jax.models.layers import Dense, shard_batch

GROUPS = 32  # of every group norm


class StdConv(nnx.Module):
    """Convolution without bias; its kernel is standardised over (height, width, input).

    Kernels are divided by (std + eps) in the post-activation networks and by
    sqrt(variance + eps) in the pre-activation ones, as in the code that trained each.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        preact: bool,
        eps: float | None,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.stride = stride
        self.preact = preact
        self.eps = eps if eps is not None else (1e-10 if preact else 1e-5)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H/stride, W/stride, C')."""
        x, kernel = x.astype(self.dtype), self._standardised().astype(self.dtype)
        half = self.kernel.shape[0] // 2
        if not half:
            # As a matrix product of rank 2: XLA:CPU computes its gradients several times faster.
            x = x[:, :: self.stride, :: self.stride]
            y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
            return y.reshape(*x.shape[:3], -1)
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            [(half, half)] * 2 if self.preact else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def _standardised(self) -> jax.Array:
        kernel = self.kernel[...]
        centred = kernel - kernel.mean((0, 1, 2))
        variance = jnp.square(centred).mean((0, 1, 2))
        if self.preact:
            return centred * lax.rsqrt(variance + self.eps)
        return centred / (jnp.sqrt(variance) + self.eps)


class GroupNorm(nnx.Module):
    """Group normalisation over (height, width, channels of a group), in float32 (1803.08494)."""

    def __init__(
        self,
        channels: int,
        *,
        preact: bool,
        eps: float | None,
        dtype: jnp.dtype,
        scale: float = 1.0,
    ):
        self.scale = nnx.Param(jnp.full((channels,), scale, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.eps = eps if eps is not None else (1e-5 if preact else 1e-6)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H, W, C)."""
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], GROUPS, -1)
        centred = grouped - grouped.mean((1, 2, 4), keepdims=True)
        variance = jnp.square(centred).mean((1, 2, 4), keepdims=True)
        y = (centred * lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (y * self.scale[...] + self.bias[...]).astype(self.dtype)


class Unit(nnx.Module):
    """A bottleneck: 1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut."""

    def __init__(
        self, inputs: int, middle: int, stride: int, *, preact: bool, conv: Callable, norm: Callable
    ):
        outputs = 4 * middle
        self.project = inputs != outputs or stride != 1
        self.preact = preact
        if self.project:
            self.conv_proj = conv(inputs, outputs, 1, stride=stride)
            if not preact:
                self.gn_proj = norm(outputs)
        self.conv1 = conv(inputs, middle, 1)
        self.conv2 = conv(middle, middle, 3, stride=stride)
        self.conv3 = conv(middle, outputs, 1)
        self.gn1 = norm(inputs if preact else middle)
        self.gn2 = norm(middle)
        # A scale of 0 makes a post-activation unit start as its shortcut.
        self.gn3 = norm(middle) if preact else norm(outputs, scale=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, H/stride, W/stride, C')."""
        return shard_batch(self._norm_first(x) if self.preact else self._norm_after(x))

    def _norm_after(self, x: jax.Array) -> jax.Array:
        shortcut = self.gn_proj(self.conv_proj(x)) if self.project else x
        y = jax.nn.relu(self.gn1(self.conv1(x)))
        y = jax.nn.relu(self.gn2(self.conv2(y)))
        return jax.nn.relu(shortcut + self.gn3(self.conv3(y)))

    def _norm_first(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.gn1(x))
        shortcut = self.conv_proj(y) if self.project else x
        y = jax.nn.relu(self.gn2(self.conv1(y)))
        y = jax.nn.relu(self.gn3(self.conv2(y)))
        return shortcut + self.conv3(y)


class Stage(nnx.Module):
    """`units` bottlenecks, named unit1, unit2, ...; the first one changes the resolution."""

    def __init__(self, units: int, inputs: int, middle: int, stride: int, **parts):
        self.units = units
        for i in range(units):
            unit = Unit(inputs if i == 0 else 4 * middle, middle, stride if i == 0 else 1, **parts)
            setattr(self, f"unit{i + 1}", unit)

    def __call__(self, x: jax.Array, remat: str) -> jax.Array:
        for i in range(self.units):
            graphdef, params = nnx.split(getattr(self, f"unit{i + 1}"))

            def apply(params, x, graphdef=graphdef):
                return nnx.merge(graphdef, params)(x)

            if remat not in ("auto", "names", "none"):  # these two choose for a ViT's blocks
                apply = jax.checkpoint(apply, policy=POLICIES[remat])
            x = apply(params, x)
        return x


class ResNet(nnx.Module):
    """Root and stages, named block1, block2, ...: (B, H, W, 3) -> (B, h, w, C)."""

    def __init__(self, config: ModelConfig, *, preact: bool, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)

        def conv(inputs, outputs, size, stride=1):
            eps = config.resnet_conv_eps
            options = dict(stride=stride, preact=preact, eps=eps, dtype=dtype, rngs=rngs)
            return StdConv(inputs, outputs, size, **options)

        def norm(channels, scale=1.0):
            eps = config.resnet_norm_eps
            return GroupNorm(channels, preact=preact, eps=eps, dtype=dtype, scale=scale)

        width = 64 * config.resnet_width
        self.preact, self.remat = preact, config.remat
        self.num_stages = len(config.stages)
        self.conv_root = conv(3, width, 7, stride=2)
        if not preact:
            self.gn_root = norm(width)
        channels = width
        for i, units in enumerate(config.stages):
            stride, middle = (1 if i == 0 else 2), width * 2**i
            stage = Stage(units, channels, middle, stride, preact=preact, conv=conv, norm=norm)
            setattr(self, f"block{i + 1}", stage)
            channels = 4 * middle
        if preact:
            self.norm = norm(channels)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The last map, and every stage's output by name: root, stage1, stage2, ..."""
        x = self.conv_root(images)
        if self.preact:
            # The published weights were trained with zeros around the map, not with -inf.
            x = _max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), "VALID")
        else:
            x = _max_pool(jax.nn.relu(self.gn_root(x)), "SAME")
        outputs = dict(root=x)
        for i in range(self.num_stages):
            x = outputs[f"stage{i + 1}"] = getattr(self, f"block{i + 1}")(x, self.remat)
        return (jax.nn.relu(self.norm(x)) if self.preact else x), outputs


class BiT(nnx.Module):
    """The paper's baseline classifier: images (B, H, W, 3) -> logits (B, K) in float32.

    Images may have any size; the config's is used for FLOPs and preprocessing.
    """

    def __init__(self, config: BiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.resnet = ResNet(config, preact=config.preact, rngs=rngs)
        if config.num_classes:
            self.head = Dense(
                (config.feature_width,),
                (config.num_classes,),
                rngs=rngs,
                kernel_init=layers.zeros,
                bias_init=nnx.initializers.constant(config.head_bias),
            )

    @overload
    def __call__(
        self,
        images: jax.Array,
        *,
        keys: jax.Array | None = None,
        return_intermediates: Literal[False] = False,
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        images: jax.Array,
        *,
        keys: jax.Array | None = None,
        return_intermediates: Literal[True],
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def __call__(
        self,
        images: jax.Array,
        *,
        keys: jax.Array | None = None,
        return_intermediates: bool = False,
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Classifies images.

        Args:
          images: (B, H, W, 3), normalised as the model's preprocessing says.
          keys: random keys, ignored as there is no dropout; all models take them.
          return_intermediates: also return a dict with `root`, `stage{i}` (B, h, w, C)
            and `pre_logits` (B, C), the input of the head.

        Returns:
          Logits (B, num_classes) in float32; features (B, C) where num_classes is 0.
        """
        x, outputs = self.resnet(images)
        features = x.astype(jnp.float32).mean((1, 2))
        logits = self.head(features) if self.config.num_classes else features
        return (logits, dict(outputs, pre_logits=features)) if return_intermediates else logits

    def outputs(
        self, images: jax.Array, *, keys: jax.Array | None = None
    ) -> tuple[jax.Array, None, jax.Array]:
        """What distillation trains: logits (B, K), no second logits, the head's input (B, C)."""
        del keys
        features = self.resnet(images)[0].astype(jnp.float32).mean((1, 2))
        return self.head(features), None, features


def _max_pool(x: jax.Array, padding: str) -> jax.Array:
    """3x3 windows at every second pixel."""
    return nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=padding)

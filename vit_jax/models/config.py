"""The configuration of a model: options that all models have, and those of a BiT ResNet."""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.models.forms.remat import CHOICES
from vit_jax.models.layers import DTYPES
from vit_jax.options import option

Size = tuple[int, int]  # (height, width) in pixels, or (rows, columns)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Options that all models have. Sizes in pixels are (height, width)."""

    image_size: Size = option(
        (224, 224),
        "size of input images in pixels, an int or (height, width); None: the size of images "
        "after data.pp",
        effect="fitted",
    )
    num_classes: int = option(
        1000,
        "number of classes; 0: no head, the model returns features; None: the data set's number",
        effect="fitted",
        at_least=0,
    )
    head_bias: float = option(
        0.0,
        "initial bias of the classification head; the paper's sigmoid pre-training uses -10",
        effect="training",
    )
    dtype: str = option(
        "float32",
        "dtype of matrix products: float32 or bfloat16; parameters stay float32",
        choices=DTYPES,
        effect="training",
    )
    remat: str = option(
        "auto",
        "activations that the backward pass recomputes to save memory: none, full (all of a "
        "block), dots (all but matrix products), dots_no_batch (all but products with weights) or "
        "names (all but queries, keys, values, attention's output, the tokens before the MLP and "
        "the input of its activation); auto: names for a ViT on TPUs, else none",
        effect="speed",
        choices=CHOICES,
    )
    resnet_stages: tuple[int, ...] | None = option(
        None,
        "number of residual units in each stage of the ResNet (hybrids and BiT); (): only its "
        "root, the first convolution with pooling; None: no ResNet",
        effect="structure",
    )
    resnet_width: int = option(
        1,
        "width factor of the ResNet: number of channels of its root, divided by 64",
        effect="structure",
        at_least=1,
    )
    resnet_norm_eps: float | None = option(
        None,
        "epsilon of the ResNet's group norms; None: as in the original code (1e-6; with preact "
        "1e-5)",
        effect="network",
        at_least=0,
    )
    naflex: int = option(
        0,
        "number of patches to which images of any size and aspect ratio are cut or padded "
        "(NaFlex, 2502.14786), after the operation naflex of data.pp; image_size is then that of "
        "the position embedding's own grid. 0: all images have image_size; None: as data.pp says",
        effect="fitted",
        at_least=0,
    )
    resnet_conv_eps: float | None = option(
        None,
        "epsilon in the standardisation of the ResNet's kernels; None: as in the original code "
        "(1e-5; with preact 1e-10)",
        effect="network",
        at_least=0,
    )

    def __post_init__(self):
        if not isinstance(self.dtype, (str, int, float)) and self.dtype is not None:
            with contextlib.suppress(TypeError):  # jnp.bfloat16, as JAX takes it: kept as its name
                object.__setattr__(self, "dtype", jnp.dtype(self.dtype).name)
        options.check_section(type(self), self, "model")
        if any(units < 1 for units in self.stages):
            raise InputError(f"model.resnet_stages is {self.resnet_stages}; units are 1 or more")

    @property
    def stages(self) -> tuple[int, ...]:
        """Units of each stage of the ResNet; () where there is none, or the root alone."""
        return self.resnet_stages or ()

    @property
    def patch(self) -> Size:
        """Height and width into which the image must divide."""
        return (1, 1)

    @property
    def input_size(self) -> Size:
        """(height, width) of the images that the data pipeline gives to the model."""
        return self.image_size

    def check_patches(self) -> None:
        """Refuses an image size that is no whole number of patches.

        New models and runs are checked. Published weights may have such a size; there the pixels
        beyond the last whole patch are cut off, as in the programs that they are of.

        Raises:
          InputError: names the nearest sizes.
        """
        stride = 1 if self.resnet_stages is None else resnet_stride(self.stages)
        for size, patch in zip(self.image_size, self.patch, strict=True):
            if -(-size // stride) % patch:  # a ResNet pads what is beyond its stride
                side = patch * stride
                raise InputError(
                    f"image size {size} is not divisible by the patch size {side}; "
                    f"use {size // side * side} or {(size // side + 1) * side}"
                )

    @property
    def feature_width(self) -> int:
        """Width of the vector that the head sees."""
        raise NotImplementedError

    @property
    def draws_random(self) -> bool:
        """Whether a training step of the model draws random numbers."""
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiTConfig(ModelConfig):
    """The configuration of a BiT ResNet (1912.11370)."""

    preact: bool = option(
        False,
        "BiT with pre-activation units (ResNet v2), as in the published BiT weights",
        effect="structure",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.resnet_stages:
            raise InputError("model.resnet_stages is empty; a BiT has at least one stage")
        if self.naflex:
            raise InputError("model.naflex needs a ViT, not a BiT")
        if self.remat == "names":
            raise InputError("model.remat 'names' needs a ViT, not a BiT; choose full or dots")

    @property
    def feature_width(self) -> int:
        return feature_channels(self.stages, self.resnet_width)


def feature_channels(stages: Sequence[int], width: int) -> int:
    """Number of channels of a ResNet's last feature map."""
    return 64 * width * (2 ** (len(stages) + 1) if stages else 1)


def resnet_stride(stages: Sequence[int]) -> int:
    """Pixels for each position of a ResNet's last feature map, along an axis."""
    return 4 * 2 ** max(0, len(stages) - 1)


def feature_grid(image_size: Size, stages: Sequence[int]) -> Size:
    """Rows and columns of a ResNet's last feature map.

    The root halves the map twice, each stage but the first once.
    """
    stride = resnet_stride(stages)
    return (-(-image_size[0] // stride), -(-image_size[1] // stride))

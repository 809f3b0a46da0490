"""The configuration of a model: its options, checked as a whole."""

import dataclasses
import functools
import math
from collections.abc import Sequence

from vit_jax import options, spec
from vit_jax.errors import InputError
from vit_jax.models.attention import ATTENTION_KINDS, IMPLEMENTATIONS, AttentionKind
from vit_jax.models.heads import HEADS
from vit_jax.models.layers import DTYPES, REMAT_POLICIES
from vit_jax.models.mlp import MLPS
from vit_jax.models.posemb import POSEMB_WHERE, POSITION_EMBEDDINGS, PositionEmbeddingKind
from vit_jax.options import option

DISTILLATION = ("none", "token", "head")
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
        "none",
        "activations that the backward pass recomputes to save memory: none, full (all of a "
        "block), dots (all but matrix products) or dots_no_batch (all but products with weights)",
        effect="speed",
        choices=REMAT_POLICIES,
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
    resnet_conv_eps: float | None = option(
        None,
        "epsilon in the standardisation of the ResNet's kernels; None: as in the original code "
        "(1e-5; with preact 1e-10)",
        effect="network",
        at_least=0,
    )

    def __post_init__(self):
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

    @property
    def feature_width(self) -> int:
        return feature_channels(self.stages, self.resnet_width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """The configuration of a ViT or hybrid (sections 3.1 and 4.1)."""

    # Shape.
    width: int = option(meaning="width of a token (D)", effect="structure", at_least=1)
    depth: int = option(meaning="number of Transformer blocks (L)", effect="structure", at_least=1)
    mlp_dim: int = option(meaning="hidden width of the MLPs", effect="structure", at_least=1)
    num_heads: int = option(meaning="number of attention heads", effect="structure", at_least=1)
    patch_size: Size = option(
        meaning="size of a patch, an int or (height, width): in pixels, in hybrids in positions "
        "of the ResNet's output",
        effect="structure",
    )
    # Parts.
    head: str = option(
        "token",
        "input of the classifier: token (class token), gap (mean of the patch tokens), map "
        "(attention pooling of the patch tokens) or token_gap (class token and mean, concatenated, "
        "as in DINOv2)",
        effect="structure",
        choices=HEADS,
    )
    class_token: bool | None = option(
        None, "whether there is a class token; None: only if the head needs it", effect="structure"
    )
    distillation: str = option(
        "none",
        "distillation as in DeiT (2012.12877): none, token (adds its token) or head (adds the "
        "token and a classifier on it; its logits and those of the head are averaged)",
        effect="structure",
        choices=DISTILLATION,
    )
    pool_then_norm: bool = option(
        False,
        "only for head gap: apply the last layer norm after the mean instead of before",
        effect="network",
    )
    pre_logits: int = option(
        0,
        "width of a dense layer with tanh before the head; 0: no such layer; -1: the width of a "
        "token",
        effect="fitted",
        at_least=0,
    )
    posemb: str = option(
        "learned",
        "position embedding: learned (1-D), learned2d, relative, sincos2d (fixed sines and "
        "cosines) or none",
        effect="network",
        choices=POSITION_EMBEDDINGS,
    )
    posemb_where: str = option(
        "stem",
        "where the position embedding is added (table 8): stem (once, before the first block), "
        "layers (before every block, each with its own parameters) or layers_shared (before every "
        "block, with the same parameters). A relative embedding acts in every block in any case",
        effect="network",
        choices=POSEMB_WHERE,
    )
    posemb_std: float = option(
        0.02,
        "standard deviation of the initial values of a learned position embedding; AugReg's code "
        "takes width ** -0.5",
        effect="training",
        above=0,
    )
    posemb_class_slot: bool = option(
        True, "class and distillation tokens get position embeddings too", effect="structure"
    )
    posemb_register_slots: bool = option(
        False, "register tokens get position embeddings too", effect="structure"
    )
    registers: int = option(
        0,
        "number of register tokens (2309.16588): extra learnt tokens",
        effect="structure",
        at_least=0,
    )
    attention_kind: str = option(
        "full",
        "which tokens a token attends to: full (all) or axial (first those in its row, then those "
        "in its column; appendix D.5)",
        effect="structure",
        choices=ATTENTION_KINDS,
    )
    layer_scale: float | None = option(
        None,
        "initial value of LayerScale, learnt factors on residual branches (2103.17239); None: no "
        "LayerScale",
        effect="structure",
    )
    qk_norm: bool = option(
        False, "apply layer norm to queries and keys (2302.05442)", effect="structure"
    )
    mlp: str = option(
        "gelu",
        "kind of MLP: gelu, or swiglu, which is gated (2002.05202)",
        effect="structure",
        choices=MLPS,
    )
    gelu: str = option(
        "tanh",
        "formula of GELU: tanh (approximate, as in JAX checkpoints) or erf (exact, as in PyTorch "
        "checkpoints)",
        effect="network",
        choices=("tanh", "erf"),
    )
    norm_eps: float = option(1e-6, "epsilon of layer norms", effect="network", at_least=0)
    # Regularisation.
    dropout: float = option(
        0.0,
        "dropout rate after every dense layer except the one for queries, keys and values, and "
        "after the position embedding",
        at_least=0,
        below=1,
        effect="training",
    )
    attention_dropout: float = option(
        0.0, "dropout rate of attention weights", at_least=0, below=1, effect="training"
    )
    stochastic_depth: float = option(
        0.0,
        "rate at which residual branches are dropped (1603.09382): this in the last block, less "
        "in earlier ones, linearly down to 0 in the first",
        at_least=0,
        below=1,
        effect="training",
    )
    # Execution.
    unroll: int = option(
        1, "number of blocks per iteration of the scan over blocks; -1: all", effect="speed"
    )
    attention: str = option(
        "auto",
        "implementation of attention: auto (same as xla), xla, or cudnn (needs dtype bfloat16 and "
        "no attention_dropout)",
        effect="speed",
        choices=IMPLEMENTATIONS,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.unroll < 1 and self.unroll != -1:
            raise InputError(f"model.unroll is {self.unroll}; give 1 or more layers, or -1: all")
        if self.width % self.num_heads:
            raise InputError(
                f"model.width {self.width} is not divisible by its {self.num_heads} heads"
            )
        if min(self.grid) < 1:
            raise InputError(
                f"image size {self.image_size} is smaller than the patch {self.patch_size}"
            )
        self._check_head()
        self.posemb_kind.check(self)
        self.kind.check(self)
        if self.attention == "cudnn" and (self.dtype != "bfloat16" or self.attention_dropout):
            raise InputError(
                "model.attention 'cudnn' needs model.dtype 'bfloat16' and no attention_dropout; "
                "'xla' does without"
            )

    def _check_head(self) -> None:
        if self.head in ("token", "token_gap") and not self.has_class_token:
            raise InputError(f"model.head {self.head!r} needs model.class_token")
        if self.distillation != "none" and not self.has_class_token:
            raise InputError("model.distillation needs model.class_token")
        if self.distillation == "head" and (self.head != "token" or self.pre_logits):
            raise InputError("model.distillation 'head' needs model.head 'token', no pre_logits")
        if self.pool_then_norm and self.head != "gap":
            raise InputError(f"model.pool_then_norm needs model.head 'gap', not {self.head!r}")

    @functools.cached_property
    def kind(self) -> AttentionKind:
        """The attention kind that `attention_kind` names."""
        return spec.create(ATTENTION_KINDS, self.attention_kind, "model.attention_kind")

    @functools.cached_property
    def posemb_kind(self) -> PositionEmbeddingKind:
        """The position embedding that `posemb` names."""
        return spec.create(POSITION_EMBEDDINGS, self.posemb, "model.posemb")

    @property
    def patch(self) -> Size:
        return self.patch_size

    @property
    def draws_random(self) -> bool:
        return max(self.dropout, self.attention_dropout, self.stochastic_depth) > 0

    @property
    def grid(self) -> Size:
        """Patches as (rows, columns); pixels beyond the last whole patch are cut off."""
        size = self.image_size
        if self.resnet_stages is not None:
            size = feature_grid(size, self.resnet_stages)
        return (size[0] // self.patch_size[0], size[1] // self.patch_size[1])

    @property
    def num_patches(self) -> int:
        """Rows times columns of `grid`."""
        return math.prod(self.grid)

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token."""
        if self.class_token is None:
            return self.head in ("token", "token_gap")
        return self.class_token

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: class, distillation, registers."""
        return self.has_class_token + (self.distillation != "none") + self.registers

    @property
    def posemb_slots(self) -> int:
        """Number of leading vectors of a position embedding that belong to prefix tokens."""
        if not self.posemb_kind.has_slots or not self.posemb_class_slot:
            return 0
        return self.prefix_tokens - (0 if self.posemb_register_slots else self.registers)

    @property
    def num_tokens(self) -> int:
        """Length of the sequence in the encoder."""
        return self.num_patches + self.prefix_tokens

    @property
    def feature_width(self) -> int:
        return self.pre_logits or self.pooled_width

    @property
    def pooled_width(self) -> int:
        """Width of the pooled tokens."""
        return 2 * self.width if self.head == "token_gap" else self.width


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

"""What defines a model, option by option, checked as a whole."""

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
        (224, 224), "pixels, int or (height, width); None: as data.pp yields", effect="fitted"
    )
    num_classes: int = option(
        1000,
        "0: no head, the model returns features; None: the data set's",
        effect="fitted",
        at_least=0,
    )
    head_bias: float = option(
        0.0, "initial bias of the head; -10 for sigmoid pre-training", effect="training"
    )
    dtype: str = option(
        "float32",
        "of matrix products, float32 or bfloat16; parameters stay float32",
        choices=DTYPES,
        effect="training",
    )
    remat: str = option(
        "none",
        "what the backward pass computes again: none, full, dots, dots_no_batch",
        effect="speed",
        choices=REMAT_POLICIES,
    )
    resnet_stages: tuple[int, ...] | None = option(
        None,
        "units of each stage of the ResNet in hybrids and BiT; (): the root alone",
        effect="structure",
    )
    resnet_width: int = option(
        1, "channels of the ResNet's root, over 64", effect="structure", at_least=1
    )
    resnet_norm_eps: float | None = option(
        None, "epsilon of group norms; None: as the code that trained it", effect="network"
    )
    resnet_conv_eps: float | None = option(
        None, "epsilon of standardised kernels; None: as the code that trained it", effect="network"
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
        """Height and width that must divide those of the image."""
        return (1, 1)

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
    """What defines a BiT ResNet (1912.11370)."""

    preact: bool = option(
        False, "pre-activation (ResNet v2), as in the published BiT weights", effect="structure"
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
    """What defines a ViT or hybrid (sections 3.1 and 4.1)."""

    # Shape.
    width: int = option(meaning="of tokens (D)", effect="structure", at_least=1)
    depth: int = option(meaning="number of blocks (L)", effect="structure", at_least=1)
    mlp_dim: int = option(meaning="hidden width of MLPs", effect="structure", at_least=1)
    num_heads: int = option(meaning="attention heads", effect="structure", at_least=1)
    patch_size: Size = option(meaning="pixels, int or (height, width)", effect="structure")
    # Parts.
    head: str = option(
        "token",
        "token: class token; gap: mean of the patches; map: attention pooling; token_gap: class "
        "token beside the mean (DINOv2)",
        effect="structure",
        choices=HEADS,
    )
    class_token: bool | None = option(
        None, "None: only where the head needs it", effect="structure"
    )
    distillation: str = option(
        "none",
        "token: DeiT's token (2012.12877); head: the token and its classifier",
        effect="structure",
        choices=DISTILLATION,
    )
    pool_then_norm: bool = option(
        False, "head gap: the last norm comes after the mean", effect="network"
    )
    pre_logits: int = option(
        0,
        "width of a tanh layer before the head; 0: none, -1: the model's width",
        effect="fitted",
        at_least=0,
    )
    posemb: str = option(
        "learned",
        "position embedding: learned (1-D), learned2d, relative, sincos2d (fixed) or none",
        effect="network",
        choices=POSITION_EMBEDDINGS,
    )
    posemb_where: str = option(
        "stem",
        "where it is added (table 8): stem; layers: at the start of each, with its own "
        "parameters; layers_shared: with the same. Relative ones act in all layers",
        effect="network",
        choices=POSEMB_WHERE,
    )
    posemb_class_slot: bool = option(
        True, "class and distillation tokens have positions of their own", effect="structure"
    )
    posemb_register_slots: bool = option(
        False, "registers have positions of their own", effect="structure"
    )
    registers: int = option(0, "extra learnt tokens (2309.16588)", effect="structure", at_least=0)
    attention_kind: str = option(
        "full",
        "which tokens attend to which: full, or axial: rows, then columns (appendix D.5)",
        effect="structure",
        choices=ATTENTION_KINDS,
    )
    layer_scale: float | None = option(
        None, "initial scale of residual branches (2103.17239); None: no scale", effect="structure"
    )
    qk_norm: bool = option(False, "layer norm of queries and keys (2302.05442)", effect="structure")
    mlp: str = option(
        "gelu", "gelu, or swiglu: gated (2002.05202)", effect="structure", choices=MLPS
    )
    gelu: str = option(
        "tanh",
        "tanh (JAX checkpoints) or erf (PyTorch checkpoints)",
        effect="network",
        choices=("tanh", "erf"),
    )
    norm_eps: float = option(1e-6, "epsilon of layer norms", effect="network")
    # Regularisation.
    dropout: float = option(
        0.0,
        "after every dense layer but qkv, and after the position embedding",
        at_least=0,
        below=1,
        effect="training",
    )
    attention_dropout: float = option(
        0.0, "on attention weights", at_least=0, below=1, effect="training"
    )
    stochastic_depth: float = option(
        0.0,
        "drop rate of the last block, growing linearly from 0",
        at_least=0,
        below=1,
        effect="training",
    )
    # Execution.
    unroll: int = option(1, "layers per iteration of the scan over blocks; -1: all", effect="speed")
    attention: str = option(
        "auto",
        "implementation of attention: auto, xla, cudnn",
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
        """Leading entries of a position embedding that belong to prefix tokens, not patches."""
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
    """Channels of a ResNet's last map."""
    return 64 * width * (2 ** (len(stages) + 1) if stages else 1)


def feature_grid(image_size: Size, stages: Sequence[int]) -> Size:
    """Rows and columns of a ResNet's last map.

    The root halves the map twice, each stage but the first once.
    """
    stride = 4 * 2 ** max(0, len(stages) - 1)
    return (-(-image_size[0] // stride), -(-image_size[1] // stride))

"""What defines a ViT, checked as a whole."""

import dataclasses
import numbers

from vit_jax.errors import InputError, unknown
from vit_jax.models.heads import HEADS
from vit_jax.models.layers import DTYPES, REMAT_POLICIES
from vit_jax.models.mlp import MLPS
from vit_jax.models.posemb import POSEMB_WHERE
from vit_jax.models.resnet import check_resnet, feature_grid

ATTENTION = ("auto", "xla", "cudnn")
DISTILLATION = ("none", "token", "head")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What defines a ViT; sizes in pixels are (height, width). Meanings: vit_jax.config."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000  # 0: no head, the model returns features
    resnet_stages: tuple[int, ...] | None = None
    resnet_width: int = 1
    resnet_norm_eps: float | None = None
    resnet_conv_eps: float | None = None
    head: str = "token"
    class_token: bool | None = None
    distillation: str = "none"
    pool_then_norm: bool = False
    pre_logits: int = 0
    posemb: str = "learned"
    posemb_where: str = "stem"
    posemb_class_slot: bool = True
    posemb_register_slots: bool = False
    registers: int = 0
    axial: bool = False
    masked: bool = False  # as it pre-trains by masked patch prediction: see models.masked
    layer_scale: float | None = None
    qk_norm: bool = False
    mlp: str = "gelu"
    gelu: str = "tanh"
    norm_eps: float = 1e-6
    head_bias: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: str = "float32"
    unroll: int = 1
    remat: str = "none"
    attention: str = "auto"

    def __post_init__(self):
        self._check_choices()
        self._check_numbers()
        if self.width % self.num_heads:
            raise InputError(
                f"model.width {self.width} is not divisible by its {self.num_heads} heads"
            )
        if self.resnet_stages is not None:
            check_resnet(self.resnet_stages, self.resnet_width)
        if min(self.grid) < 1:
            raise InputError(
                f"image size {self.image_size} is smaller than the patch {self.patch_size}"
            )
        self._check_head()
        self._check_posemb()
        if self.axial:
            self._check_axial()
        if self.masked:
            self._check_masked()
        if self.attention == "cudnn" and (self.dtype != "bfloat16" or self.attention_dropout):
            raise InputError(
                "model.attention 'cudnn' wants model.dtype 'bfloat16' and no attention_dropout; "
                "'xla' does without"
            )

    def _check_choices(self) -> None:
        for field, options in [
            ("head", HEADS),
            ("distillation", DISTILLATION),
            ("posemb_where", POSEMB_WHERE),
            ("mlp", MLPS),
            ("gelu", ("tanh", "erf")),
            ("remat", REMAT_POLICIES),
            ("dtype", DTYPES),
            ("attention", ATTENTION),
        ]:
            if getattr(self, field) not in options:
                raise unknown(f"model.{field}", getattr(self, field), options)

    def _check_numbers(self) -> None:
        for minimum, fields in [
            (1, ("width", "depth", "mlp_dim", "num_heads")),
            (0, ("num_classes", "pre_logits", "registers")),
        ]:
            for field in fields:
                value = getattr(self, field)
                if not isinstance(value, numbers.Integral) or value < minimum:
                    raise InputError(
                        f"model.{field} is {value!r}; it must be a whole number, at least {minimum}"
                    )
        if self.unroll < 1 and self.unroll != -1:
            raise InputError(f"model.unroll is {self.unroll}; give 1 or more layers, or -1: all")
        for field in ("dropout", "attention_dropout", "stochastic_depth"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise InputError(f"model.{field} is {getattr(self, field)}; it must be in [0, 1)")

    def _check_head(self) -> None:
        if self.head in ("token", "token_gap") and not self.has_class_token:
            raise InputError(f"model.head {self.head!r} needs model.class_token")
        if self.distillation != "none" and not self.has_class_token:
            raise InputError("model.distillation needs model.class_token")
        if self.distillation == "head" and (self.head != "token" or self.pre_logits):
            raise InputError("model.distillation 'head' wants model.head 'token', no pre_logits")
        if self.pool_then_norm and self.head != "gap":
            raise InputError(f"model.pool_then_norm wants model.head 'gap', not {self.head!r}")

    def _check_posemb(self) -> None:
        where = self.posemb_where
        if self.posemb == "none" and where != "stem":
            raise InputError(f"model.posemb_where {where!r} wants a model.posemb, not 'none'")
        if self.posemb == "sincos2d" and where == "layers":
            raise InputError(
                "model.posemb 'sincos2d' is fixed, the same in all layers: set "
                "model.posemb_where to 'layers_shared'"
            )
        if self.posemb == "relative" and self.attention == "cudnn":
            raise InputError("model.posemb 'relative' wants model.attention 'xla', not 'cudnn'")

    def _check_axial(self) -> None:
        if self.prefix_tokens:
            raise InputError(
                "model.axial: a class token or register stands in no row and no column; set "
                "model.head to 'gap' or 'map', model.registers to 0"
            )
        if self.posemb == "relative":
            raise InputError("model.axial wants another model.posemb than 'relative'")

    def _check_masked(self) -> None:
        if self.num_classes or self.pre_logits or self.head == "map":
            raise InputError(
                "masked patch prediction has no classifier: leave model.num_classes and "
                "model.pre_logits at 0, model.head not at 'map'"
            )
        if self.resnet_stages is not None or self.grid == (1, 1):
            raise InputError(
                "masked patch prediction wants a plain ViT with two patches or more: those of a "
                "hybrid have seen each other"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns); pixels beyond the last whole patch are cut off."""
        size = self.image_size
        if self.resnet_stages is not None:
            size = feature_grid(size, self.resnet_stages)
        return tuple(pixels // patch for pixels, patch in zip(size, self.patch_size))

    @property
    def has_class_token(self) -> bool:
        """Whether there is a class token; None in the config: where the head wants it."""
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
        if self.posemb in ("none", "relative") or not self.posemb_class_slot:
            return 0
        return self.prefix_tokens - (0 if self.posemb_register_slots else self.registers)

    @property
    def num_tokens(self) -> int:
        """Length of the sequence in the encoder."""
        return self.grid[0] * self.grid[1] + self.prefix_tokens

    @property
    def feature_width(self) -> int:
        """Width of what the head sees."""
        return self.pre_logits or self.pooled_width

    @property
    def pooled_width(self) -> int:
        """Width of the pooled tokens."""
        return 2 * self.width if self.head == "token_gap" else self.width

"""The configuration of a ViT: its options, checked as a whole."""

import dataclasses
import functools
import math

from vit_jax import spec
from vit_jax.models.attention.fused.choice import IMPLEMENTATIONS
from vit_jax.models.attention.self_attention import (
    ATTENTION_KINDS,
    QKV_BIASES,
    AttentionKind,
)
from vit_jax.models.block import BLOCKS, BlockKind
from vit_jax.models.config import ModelConfig, Size, feature_grid
from vit_jax.models.heads import HEADS
from vit_jax.models.layers import NORMS
from vit_jax.models.mlp import GELUS, MLPS
from vit_jax.models.naflex import METHODS as NAFLEX_METHODS
from vit_jax.models.naflex import packed_size
from vit_jax.models.option_checks import check
from vit_jax.models.positions.bias import POSITION_BIASES, PositionBiasKind
from vit_jax.models.positions.embedding import (
    POSEMB_WHERE,
    POSITION_EMBEDDINGS,
    PositionEmbeddingKind,
)
from vit_jax.models.positions.rotary import ROTARY_EMBEDDINGS, RotaryKind
from vit_jax.options import option

DISTILLATION = ("none", "token", "head")


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
        "only for head gap: apply the last norm after the mean instead of before",
        effect="network",
    )
    pool_prefix: bool = option(
        False,
        "heads gap and map also see class token, distillation token and registers",
        effect="network",
    )
    map_heads: int = option(
        0,
        "number of heads of the attention pooling; 0: as many as in the blocks",
        effect="structure",
        at_least=0,
    )
    map_mlp_dim: int = option(
        0,
        "hidden width of the attention pooling's MLP; 0: as in the blocks",
        effect="structure",
        at_least=0,
    )
    projection: int = option(
        0,
        "width of a linear layer without bias after pooling, into CLIP's space of images and "
        "texts; 0: no such layer",
        effect="structure",
        at_least=0,
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
        "cosines) or none. rotary and position_bias can be used beside it",
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
    rotary: str = option(
        "none",
        "rotation of queries and keys by the position of their patch (RoPE): none, centred (as in "
        "DINOv3), indexed (as in EVA-02 and PE) or mixed (learnt, 2403.13298)",
        effect="network",
        choices=ROTARY_EMBEDDINGS,
    )
    position_bias: str = option(
        "none",
        "bias on attention logits by the offset of two patches: none, table (BEiT, 2106.08254) or "
        "mlp (2111.09883)",
        effect="structure",
        choices=POSITION_BIASES,
    )
    registers: int = option(
        0,
        "number of register tokens (2309.16588): extra learnt tokens",
        effect="structure",
        at_least=0,
    )
    attention_kind: str = option(
        "full",
        "which tokens a token attends to: full (all), causal (those before it and itself), axial "
        "(first those in its row, then those in its column; appendix D.5), block(size=N), "
        "halo(size=N, halo=H) or window(size=K) (patches near it), sparse (1904.10509), quadratic "
        "or offsets (all, by the offset of two patches; 1911.03584). docs/related_work.md "
        "describes them and their arguments",
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
        "formula of GELU: tanh (approximate, as in JAX checkpoints), erf (exact, as in PyTorch "
        "checkpoints) or quick (x sigmoid(1.702 x), as in OpenAI's CLIP)",
        effect="network",
        choices=GELUS,
    )
    block: str = option(
        "sequential",
        "how attention and MLP are put together: sequential (norm, attention, norm, MLP), "
        "post_norm (norms after them; 2111.09883), sum_norm (norms of the sums, as in BERT; "
        "1810.04805), parallel (both see the same tokens; 2302.05442) or branched(count=N) (N "
        "attentions side by side, then N MLPs; 2203.09795)",
        effect="structure",
        choices=BLOCKS,
    )
    # Norms and biases.
    norm: str = option(
        "layer",
        "kind of the norms: layer (layer norm) or rms (1910.07467)",
        effect="structure",
        choices=NORMS,
    )
    norm_eps: float = option(1e-6, "epsilon of the norms", effect="network")
    patch_norm: bool = option(
        False, "apply a norm to the embedded patches (AIMv2)", effect="structure"
    )
    norm_pre: bool = option(
        False, "apply a norm to all tokens before the first block (CLIP)", effect="structure"
    )
    attention_norm: bool = option(
        False,
        "apply a norm to the output of the heads, before its projection (sub-LN, 2210.06423)",
        effect="structure",
    )
    mlp_norm: bool = option(
        False,
        "apply a norm to the hidden vector of the MLPs (sub-LN, 2210.06423)",
        effect="structure",
    )
    final_norm: bool = option(
        True, "apply a norm to the tokens after the last block", effect="structure"
    )
    qkv_bias: str = option(
        "all",
        "biases of the attention's queries, keys and values: all, no_key (queries and values) or "
        "none",
        effect="structure",
        choices=QKV_BIASES,
    )
    out_bias: bool = option(
        True, "the attention's output projection has a bias", effect="structure"
    )
    mlp_bias: bool = option(True, "the dense layers of the MLPs have biases", effect="structure")
    patch_bias: bool = option(True, "the patch embedding has a bias", effect="structure")
    classifier_bias: bool = option(True, "the classification head has a bias", effect="structure")
    # Pixels as tokens.
    palette: int = option(
        0,
        "number of colours to which pixels are reduced: every pixel is a token, its colour's "
        "learnt vector, as in iGPT (docs/igpt.md); 0: tokens are patches",
        effect="structure",
        at_least=0,
    )
    color_head: bool = option(
        False,
        "a head on every token that predicts the colour of its pixel; needs palette",
        effect="structure",
    )
    # Images of any size.
    naflex_resize: str = option(
        "bilinear",
        "how NaFlex resizes position embeddings to an image's grid: bilinear or bicubic",
        effect="network",
        choices=NAFLEX_METHODS,
    )
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
    patch_dropout: float = option(
        0.0,
        "share of an image's patches that training leaves out, others for each example and as many "
        "for all (FLIP, 2212.00794); tokens before the patches stay. At least one patch is kept",
        at_least=0,
        below=1,
        effect="training",
    )
    # Execution.
    unroll: int = option(
        0,
        "number of blocks per iteration of the scan over blocks; -1: all; 0: all in training on "
        "CPUs up to a depth of 12 (remat none), and on TPUs with fsdp up to 24 (remat names), else "
        "1 (docs/performance.md)",
        effect="speed",
    )
    attention: str = option(
        "auto",
        "implementation of attention: auto (by device and number of tokens), xla, blockwise, cudnn "
        "(NVIDIA GPUs; needs dtype bfloat16) or splash (TPUs); those but auto and xla take no "
        "attention_dropout (docs/scaling.md)",
        effect="speed",
        choices=IMPLEMENTATIONS,
    )

    def __post_init__(self):
        super().__post_init__()
        check(self)

    @functools.cached_property
    def kind(self) -> AttentionKind:
        """The attention kind that `attention_kind` names."""
        return spec.create(ATTENTION_KINDS, self.attention_kind, "model.attention_kind")

    @functools.cached_property
    def posemb_kind(self) -> PositionEmbeddingKind:
        """The position embedding that `posemb` names."""
        return spec.create(POSITION_EMBEDDINGS, self.posemb, "model.posemb")

    @functools.cached_property
    def rotary_kind(self) -> RotaryKind:
        """The rotary embedding that `rotary` names."""
        return spec.create(ROTARY_EMBEDDINGS, self.rotary, "model.rotary")

    @functools.cached_property
    def position_bias_kind(self) -> PositionBiasKind:
        """The position bias that `position_bias` names."""
        return spec.create(POSITION_BIASES, self.position_bias, "model.position_bias")

    @functools.cached_property
    def block_kind(self) -> BlockKind:
        """The kind of block that `block` names."""
        return spec.create(BLOCKS, self.block, "model.block")

    @property
    def patch(self) -> Size:
        return self.patch_size

    @property
    def input_size(self) -> Size:
        return packed_size(self.naflex, self.patch_size[0]) if self.naflex else self.image_size

    @property
    def draws_random(self) -> bool:
        rates = (self.dropout, self.attention_dropout, self.stochastic_depth, self.patch_dropout)
        return max(rates) > 0

    @property
    def kept_patches(self) -> int:
        """Number of patches of an image in training: those that `patch_dropout` keeps."""
        # 1e-9: 100 * (1 - 0.9) is a little below 10.
        return max(1, math.floor(self.num_patches * (1 - self.patch_dropout) + 1e-9))

    @property
    def grid(self) -> Size:
        """Patches as (rows, columns); pixels beyond the last whole patch are cut off."""
        size = self.image_size
        if self.resnet_stages is not None:
            size = feature_grid(size, self.resnet_stages)
        return (size[0] // self.patch_size[0], size[1] // self.patch_size[1])

    @property
    def num_patches(self) -> int:
        """Number of patches of an image: rows times columns of `grid`, or `naflex`."""
        return self.naflex or math.prod(self.grid)

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
    def autoregressive(self) -> bool:
        """Whether tokens are pixels, each of which sees those before it, after a start token."""
        return bool(self.palette) and self.kind.causal

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
        return self.pre_logits or self.projection or self.pooled_width

    @property
    def pooled_width(self) -> int:
        """Width of the pooled tokens."""
        return 2 * self.width if self.head == "token_gap" else self.width

"""Options of a ViT that do not fit each other."""

from typing import TYPE_CHECKING

from vit_jax.errors import InputError
from vit_jax.models.attention.fused.choice import check_takes_bias

if TYPE_CHECKING:
    from vit_jax.models.vit_config import ViTConfig


def check(config: "ViTConfig") -> None:
    """Raises InputError where options of a ViT do not fit each other."""
    if config.unroll < -1:
        raise InputError(
            f"model.unroll is {config.unroll}; give 1 or more layers, -1: all, or 0: by the device"
        )
    if config.kind.splits_width and config.width % config.num_heads:
        raise InputError(
            f"model.width {config.width} is not divisible by its {config.num_heads} heads"
        )
    if min(config.grid) < 1:
        raise InputError(
            f"image size {config.image_size} is smaller than the patch {config.patch_size}"
        )
    _check_head(config)
    _check_pixels(config)
    parts = (config.kind, config.posemb_kind, config.rotary_kind, config.position_bias_kind)
    try:
        for part in parts:
            part.check(config)
    except InputError:
        config.check_patches()  # an image size that does not divide is the first thing to say
        raise
    if config.block_kind.branches > 1 and config.kind.branches > 1:
        raise InputError("model.block 'branched' needs model.attention_kind 'full'")
    if config.naflex:
        _check_naflex(config)
    if config.patch_dropout:
        _check_patch_dropout(config)
    if config.attention == "cudnn" and (config.dtype != "bfloat16" or config.attention_dropout):
        raise InputError(
            "model.attention 'cudnn' needs model.dtype 'bfloat16' and no attention_dropout; "
            "'xla' does without"
        )
    if config.attention not in ("auto", "xla") and config.attention_dropout:
        raise InputError(
            f"model.attention {config.attention!r} has no weights for attention_dropout; 'xla' has"
        )


def _check_pixels(config: "ViTConfig") -> None:
    """Refuses parts that do not go with pixels as tokens."""
    if config.color_head and not config.palette:
        raise InputError("model.color_head needs model.palette: a number of colours")
    if not config.classifier_bias and config.head_bias:
        raise InputError("model.head_bias needs model.classifier_bias")
    if not config.palette:
        return
    if config.palette < 2:
        raise InputError(f"model.palette is {config.palette}; give 2 or more colours")
    for name, usual in (
        *(("patch_size", (1, 1)), ("patch_bias", False), ("resnet_stages", None), ("naflex", 0)),
        *(("patch_dropout", 0.0), ("registers", 0), ("distillation", "none")),
    ):
        if getattr(config, name) != usual:
            raise InputError(
                f"a model of pixels (model.palette {config.palette}) needs model.{name} "
                f"{usual!r}: a token is a pixel"
            )
    if config.has_class_token:
        raise InputError("model.palette needs model.head 'gap' or 'map': there is no class token")
    if config.color_head and (config.pool_then_norm or not config.final_norm):
        raise InputError("model.color_head needs model.final_norm, and no model.pool_then_norm")


def _check_naflex(config: "ViTConfig") -> None:
    """Refuses parts that need one grid for all images."""
    for name, usual in (
        *(("posemb_where", "stem"), ("rotary", "none"), ("position_bias", "none")),
        *(("attention_kind", "full"), ("resnet_stages", None)),
    ):
        if getattr(config, name) != usual:
            raise InputError(f"model.naflex needs model.{name} {usual!r}")
    if config.posemb not in ("learned", "none"):
        raise InputError("model.naflex needs model.posemb 'learned' or 'none'")
    if config.patch_size[0] != config.patch_size[1] or config.patch_size[0] < 2:
        raise InputError("model.naflex needs square patches of 2 or more pixels")
    check_takes_bias(config.attention, "model.naflex")


def _check_patch_dropout(config: "ViTConfig") -> None:
    """Refuses parts that need the tokens of a whole grid of patches in the blocks."""
    for name, usual in (("naflex", 0), ("posemb_where", "stem"), ("attention_kind", "full")):
        if getattr(config, name) != usual:
            raise InputError(f"model.patch_dropout needs model.{name} {usual!r}")
    if config.posemb.partition("(")[0] == "relative":
        raise InputError("model.patch_dropout needs another model.posemb than 'relative'")


def _check_head(config: "ViTConfig") -> None:
    if config.head in ("token", "token_gap") and not config.has_class_token:
        raise InputError(f"model.head {config.head!r} needs model.class_token")
    if config.distillation != "none" and not config.has_class_token:
        raise InputError("model.distillation needs model.class_token")
    if config.distillation == "head" and (config.head != "token" or config.pre_logits):
        raise InputError("model.distillation 'head' needs model.head 'token', no pre_logits")
    if config.pool_then_norm and config.head != "gap":
        raise InputError(f"model.pool_then_norm needs model.head 'gap', not {config.head!r}")
    if config.pool_then_norm and not config.final_norm:
        raise InputError("model.pool_then_norm needs model.final_norm")
    if config.pool_prefix and (config.head not in ("gap", "map") or not config.prefix_tokens):
        raise InputError(
            "model.pool_prefix needs model.head 'gap' or 'map', and tokens before the patches"
        )
    if (config.map_heads or config.map_mlp_dim) and config.head != "map":
        raise InputError("model.map_heads and model.map_mlp_dim need model.head 'map'")
    if config.map_heads and config.width % config.map_heads:
        raise InputError(
            f"model.width {config.width} is not divisible by model.map_heads {config.map_heads}"
        )
    if config.head == "map" and not config.map_heads and config.width % config.num_heads:
        raise InputError(
            f"model.width {config.width} is not divisible by its {config.num_heads} heads, of "
            "which head 'map' has as many; set model.map_heads"
        )
    if config.projection and (config.pre_logits or config.distillation == "head"):
        raise InputError("model.projection needs model.pre_logits 0 and no distillation 'head'")

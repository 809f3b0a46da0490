"""timm's files, and Meta's own files of DeiT and DINOv2, which have the same names."""

import re
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, Size
from vit_jax.models.variants import model_config
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.description import own_description, sidecar
from vit_jax.weights.families import FAMILIES, Family
from vit_jax.weights.formats.rows import (
    RESNET,
    SIZES,
    dense,
    norm,
    other_epsilon,
    torch_resnet,
)
from vit_jax.weights.formats.timm.config import hints, prepared_by, recipe
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe, other_preprocessing
from vit_jax.weights.record import Weights
from vit_jax.weights.write import (
    ANY,
    check_expressible,
    named,
    save,
    side_length,
    weight_format,
)

_TIMM_UNIT = "stages.{s0}.blocks.{c0}"
_BACKBONE = "patch_embed.backbone"
TIMM: Table = {
    **dense("embedding", "patch_embed.proj", "dipq", "d"),
    "cls": ("cls_token", "11d"),
    "dist": ("dist_token", "11d"),
    "registers": ("reg_token", "1rd"),
    "posemb/embedding": ("pos_embed", "1nd"),
    **norm("blocks/norm1", "blocks.{l}.norm1"),
    **dense("blocks/attention/qkv", "blocks.{l}.attn.qkv", "(thk)d", "(thk)"),
    **norm("blocks/attention/query_norm", "blocks.{l}.attn.q_norm", "k"),
    **norm("blocks/attention/key_norm", "blocks.{l}.attn.k_norm", "k"),
    **dense("blocks/attention/out", "blocks.{l}.attn.proj", "d(hk)", "d"),
    "blocks/scale1": ("blocks.{l}.ls1.gamma", "d"),
    **norm("blocks/norm2", "blocks.{l}.norm2"),
    **dense("blocks/mlp/fc1", "blocks.{l}.mlp.fc1", "md", "m"),
    **dense("blocks/mlp/gated", "blocks.{l}.mlp.fc1", "(gm)d", "(gm)"),
    **dense("blocks/mlp/fc2", "blocks.{l}.mlp.fc2", "dm", "d"),
    "blocks/scale2": ("blocks.{l}.ls2.gamma", "d"),
    **norm("norm", "norm"),
    "map_head/probe": ("attn_pool.latent", "11d"),
    **dense("map_head/query", "attn_pool.q", "(HK)d", "(HK)"),
    **dense("map_head/key_value", "attn_pool.kv", "(uHK)d", "(uHK)"),
    **dense("map_head/out", "attn_pool.proj", "d(HK)", "d"),
    **norm("map_head/norm", "attn_pool.norm"),
    **dense("map_head/mlp/fc1", "attn_pool.mlp.fc1", "Md", "M"),
    **dense("map_head/mlp/fc2", "attn_pool.mlp.fc2", "dM", "d"),
    **dense("pre_logits", "pre_logits.fc", "ef", "e"),
    **dense("head", "head", "oz", "o"),
    **dense("head_dist", "head_dist", "od", "o"),
    **torch_resnet(
        "stem", f"{_BACKBONE}.stem.conv", f"{_BACKBONE}.stem.norm", f"{_BACKBONE}.{_TIMM_UNIT}"
    ),
}
TIMM_BIT: Table = {
    **torch_resnet("resnet", "stem.conv", "stem.norm", _TIMM_UNIT),
    **norm("resnet/norm", "norm", "y"),
    **dense("head", "head.fc", "oz11", "o"),
}
_TIMM_RENAMES = (
    (r"^register_tokens$", "reg_token"),  # DINOv2's own files
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's training, in chunks
    (r"\.gamma_(\d)$", r".ls\1.gamma"),  # DeiT-III's own files
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^fc_norm\.", "norm."),
    (r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1."),
)

FAMILIES.add(
    "timm ViT",
    Family(
        "patch_embed.proj.weight",
        TIMM,
        hints,
        recipe,
        ("", "model.", "backbone."),
        _TIMM_RENAMES,
        aside="mask_token",
        # The projections of DINO, iBOT and DINOv2.
        unused=r"head\.(mlp|last_layer)\..+|(dino|ibot)_head\..+",
    ),
)
FAMILIES.add("timm BiT", Family("stem.conv.weight", TIMM_BIT, hints, recipe))


@weight_format("timm", ".safetensors", "")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes a file with a sidecar, or a directory with timm's config.json."""
    config = weights.config
    document = _document(weights)
    if isinstance(config, BiTConfig):
        tensors, lines = named(weights, "timm BiT"), other_epsilon(config, config.preact)
    else:
        renames = []
        if config.pool_then_norm:
            renames.append((r"^norm\.", "fc_norm."))
        if config.resnet_stages == ():
            renames.append((r"^patch_embed\.backbone\.stem\.", "patch_embed.backbone."))
        tensors = named(weights, "timm ViT", renames)
        lines = [f"timm's norm epsilon is 1e-6, not {config.norm_eps:g}"]
        lines = lines if config.norm_eps != 1e-6 else []
    lines += [f"left out, timm has none: {name}" for name in weights.aside]
    own = own_description(weights)
    if path.suffix:
        return [*save(path, tensors, {sidecar(path): own}), *lines]
    theirs = prepared_by(document["pretrained_cfg"]).spec(config.image_size)
    lines += other_preprocessing("timm", weights.pp, theirs)
    files = {path / "config.json": dict(document, vit_jax=own)}
    return [*save(path / "model.safetensors", tensors, files), *lines]


_TIMM_SIZES = dict(Ti="tiny", S="small", B="base", L="large", H="huge", g="giant", G="gigantic")
# Patch sizes of timm's architectures; another one goes into the first one's arguments.
_TIMM_PATCHES = dict(
    Ti=(16,), S=(16, 8, 32), B=(16, 8, 32), L=(16, 14, 32), H=(14,), g=(14,), G=(14,)
)
# Architectures of hybrids by ResNet and nominal patch; the rest goes into the arguments.
_TIMM_HYBRIDS = {
    "R/16": "vit_tiny_r_s16_p8_224",
    "R26/32": "vit_small_r26_s32_224",
    "R50/16": "vit_base_r50_s16_224",
    "R50/32": "vit_large_r50_s32_224",
}
_TIMM_BITS = {
    f"BiT-R{size}": f"resnetv2_{size}_bit"
    for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")
}


_RESNET = dict.fromkeys(
    ("resnet_stages", "resnet_width", "resnet_norm_eps", "resnet_conv_eps"), ANY
)
# Options that `model_args` can express; all others must have their usual value.
_VIT = dict.fromkeys(
    (
        *("width", "depth", "mlp_dim", "num_heads", "patch_size", "class_token", "pre_logits"),
        *("pool_then_norm", "posemb_class_slot", "posemb_register_slots", "registers"),
        *("layer_scale", "qk_norm", "mlp", "gelu", "norm_eps"),
    ),
    ANY,
)


def _document(weights: Weights) -> dict[str, Any]:
    """The content of timm's config.json, without the key "vit_jax".

    Raises:
      InputError: timm has no such model.
    """
    config = weights.config
    if isinstance(config, BiTConfig):
        if not config.preact:
            raise InputError("timm has no post-activation BiT; write .npz instead")
        check_expressible("timm", config, RESNET | SIZES | dict(preact=True))
        arguments: dict[str, Any] = dict(layers=list(config.stages))
        pool, width, classifier = "avg", config.feature_width, "head.fc"
    else:
        arguments, width, classifier = _arguments(config), config.width, "head"
        pool = dict(token="token", gap="avg", map="map")[config.head]
    document = dict(
        architecture=_architecture(weights.name, config),
        num_classes=config.num_classes,
        num_features=width,
        global_pool=pool,
        model_args=dict(arguments, num_classes=config.num_classes, global_pool=pool),
        pretrained_cfg=dict(
            num_classes=config.num_classes,
            classifier=classifier,
            **to_timm(Recipe.parse(weights.pp), config.image_size),
        ),
    )
    if weights.labels:
        document["label_names"] = weights.labels
    return document


def _arguments(config: ViTConfig) -> dict[str, Any]:
    head = config.head if config.head in ("gap", "map") else "token"
    distillation = "head" if config.distillation == "head" else "none"
    has = _VIT | RESNET | SIZES | dict(head=head, distillation=distillation)
    check_expressible("timm", config, has)
    arguments: dict[str, Any] = dict(
        img_size=list(config.image_size),
        patch_size=side_length(config.patch_size),
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_dim * (2 if config.mlp == "swiglu" else 1) / config.width,
    )
    if config.gelu == "tanh":
        arguments["act_layer"] = "gelu_tanh"
    if config.registers:
        arguments["reg_tokens"] = config.registers
    if config.registers and not config.posemb_register_slots or not config.posemb_class_slot:
        arguments["no_embed_class"] = True
    if config.layer_scale is not None:
        arguments["init_values"] = config.layer_scale
    if config.qk_norm:
        arguments["qk_norm"] = True
    if not config.has_class_token:
        arguments["class_token"] = False
    if config.head == "gap":
        arguments["fc_norm"] = config.pool_then_norm
    return arguments


def _architecture(name: str, config: ViTConfig | BiTConfig) -> str:
    """timm's name of the nearest architecture; `model_args` gives the differences.

    Raises:
      InputError: no architecture has this ResNet.
    """
    stages = config.resnet_stages
    if stages is not None:
        known = _TIMM_HYBRIDS | _TIMM_BITS
        key = re.sub(r"\+ViT-\w+/", "/", name)
        if key not in known or model_config(name).resnet_stages != stages:
            raise InputError(f"timm has no {name} with stages {stages}; write .npz instead")
        return known[key]
    variant, patch = name.removeprefix("ViT-").split("/")
    size = _TIMM_SIZES.get(variant, "base")
    assert isinstance(config, ViTConfig)  # a BiT has stages
    if config.distillation == "head":
        return f"deit_{size}_distilled_patch16_224"
    if config.mlp == "swiglu":
        return "vit_giant_patch14_dinov2"
    patches = _TIMM_PATCHES.get(variant, _TIMM_PATCHES["B"])
    return f"vit_{size}_patch{patch if int(patch) in patches else patches[0]}_224"


def to_timm(recipe: Recipe, size: Size) -> dict[str, Any]:
    """The preprocessing part of timm's `pretrained_cfg`."""
    return dict(
        input_size=[3, *size],
        fixed_input_size=True,
        interpolation=recipe.method,
        # A little less, so that timm, which rounds down, comes to the same whole number.
        crop_pct=recipe.share if recipe.share == 1.0 else recipe.share * (1 - 1e-9),
        crop_mode="squash" if recipe.squash else "center",
        mean=list(recipe.mean),
        std=list(recipe.std),
    )

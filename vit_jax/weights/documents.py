"""config.json for other programs: what they call our options, and which they lack."""

import re
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ViTConfig, feature_channels, feature_grid
from vit_jax.models.variants import model_config
from vit_jax.weights.preprocessing import Recipe, to_huggingface, to_timm
from vit_jax.weights.record import Published

Size = tuple[int, int]
# Options of a ViT that have names in few programs, with the value that all understand.
_PLAIN = dict(
    resnet_stages=None,
    head="token",
    class_token=None,
    distillation="none",
    pool_then_norm=False,
    pre_logits=0,
    posemb="learned",
    posemb_where="stem",
    posemb_class_slot=True,
    posemb_register_slots=False,
    registers=0,
    attention_kind="full",
    layer_scale=None,
    qk_norm=False,
    mlp="gelu",
)


def _require(program: str, config: ViTConfig, **has: Any) -> None:
    """Refuses options that `program` lacks; `has` names those it has, or their value there."""
    for field, plain in _PLAIN.items():
        value = getattr(config, field)
        if value != has.get(field, plain) and has.get(field) is not Any:
            raise InputError(f"{program} has no model with {field}={value!r}; write .npz instead")


def _size(size: Size) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


def huggingface_kind(config: ViTConfig | BiTConfig) -> str:
    """The `model_type` that fits.

    Raises:
      InputError: none does.
    """
    if isinstance(config, BiTConfig):
        return "bit"
    if config.distillation != "none":
        _require("transformers' DeiT", config, distillation=Any)
        return "deit"
    if config.layer_scale is not None or config.head == "token_gap":
        head = "token_gap" if config.num_classes else "token"
        has = dict(layer_scale=Any, registers=Any, mlp=Any, head=head)
        _require("transformers' DINOv2", config, **has)
        return "dinov2_with_registers" if config.registers else "dinov2"
    if config.resnet_stages is not None:
        _require("transformers' hybrid ViT", config, resnet_stages=Any)
        return "vit-hybrid"
    # The base model alone has a representation layer.
    _require("transformers' ViT", config, pre_logits=0 if config.num_classes else Any)
    return "vit"


_ARCHITECTURES = {
    "vit": "ViT",
    "vit-hybrid": "ViTHybrid",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "bit": "Bit",
}


def huggingface(published: Published) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json of transformers, by file name."""
    config = published.config
    kind = huggingface_kind(config)
    suffix = "ForImageClassification" if config.num_classes else "Model"
    if getattr(config, "distillation", "") == "head":
        suffix += "WithTeacher"
    names = published.labels or [f"LABEL_{i}" for i in range(config.num_classes)]
    document = dict(
        architectures=[_ARCHITECTURES[kind] + suffix],
        model_type=kind,
        dtype="float32",
        num_channels=3,
        id2label={str(i): name for i, name in enumerate(names)},
        label2id={name: i for i, name in enumerate(names)},
        **(_bit(config, config.preact) if kind == "bit" else _vit(config, kind)),
    )
    preprocessor = to_huggingface(Recipe.parse(published.pp), config.image_size)
    return {"config.json": document, "preprocessor_config.json": preprocessor}


def _vit(config: ViTConfig, kind: str) -> dict[str, Any]:
    document = dict(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        hidden_act="gelu" if config.gelu == "erf" else "gelu_pytorch_tanh",
        layer_norm_eps=config.norm_eps,
        image_size=_size(config.image_size),
        patch_size=_size(config.patch_size),
        qkv_bias=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if config.pre_logits:
        document |= dict(pooler_act="tanh", pooler_output_size=config.pre_logits)
    if kind == "vit-hybrid":
        stages = config.resnet_stages
        grid = feature_grid(config.image_size, stages)
        channels = feature_channels(stages, config.resnet_width)
        backbone = dict(_bit(config, preact=False), model_type="bit")
        document |= dict(backbone_config=dict(backbone, out_features=[f"stage{len(stages)}"]))
        document |= dict(backbone_featmap_shape=[1, channels, *grid])
    if kind.startswith("dinov2"):
        document |= _dinov2(config)
    return document


def _dinov2(config: ViTConfig) -> dict[str, Any]:
    """The MLP's width is not said outright but as a ratio."""
    gated = config.mlp == "swiglu"
    ratio = 4 if gated else config.mlp_dim / config.width
    hidden = int(config.width * ratio)
    if gated:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    if hidden != config.mlp_dim:
        raise InputError(
            f"transformers' DINOv2 has no model with mlp_dim={config.mlp_dim} at width "
            f"{config.width}; write .npz instead"
        )
    registers = dict(num_register_tokens=config.registers) if config.registers else {}
    return dict(
        mlp_ratio=int(ratio) if ratio == int(ratio) else ratio,
        layerscale_value=config.layer_scale,
        use_swiglu_ffn=gated,
        use_mask_token=True,
        drop_path_rate=0.0,
        **registers,
    )


def _bit(config: ViTConfig | BiTConfig, preact: bool) -> dict[str, Any]:
    stages, width = config.resnet_stages, 64 * config.resnet_width
    return dict(
        layer_type="preactivation" if preact else "bottleneck",
        global_padding=None if preact else "SAME",
        embedding_dynamic_padding=not preact,
        depths=list(stages),
        embedding_size=width,
        hidden_sizes=[4 * width * 2**i for i in range(len(stages))],
        hidden_act="relu",
        num_groups=32,
        output_stride=32,
        width_factor=1,
    )


_TIMM_SIZES = dict(Ti="tiny", S="small", B="base", L="large", H="huge", g="giant", G="gigantic")
# Patch sizes of timm's architectures; another one goes into the first one's arguments.
_TIMM_PATCHES = dict(
    Ti=(16,), S=(16, 8, 32), B=(16, 8, 32), L=(16, 14, 32), H=(14,), g=(14,), G=(14,)
)
# By ResNet and nominal patch; the rest goes into the arguments.
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


def timm(published: Published) -> dict[str, Any]:
    """config.json of timm, without our own key.

    Raises:
      InputError: timm has no such model.
    """
    config = published.config
    if isinstance(config, BiTConfig):
        if not config.preact:
            raise InputError("timm has no post-activation BiT; write .npz instead")
        arguments, pool, width = (
            dict(layers=list(config.resnet_stages)),
            "avg",
            config.feature_width,
        )
    else:
        arguments, width = _timm_arguments(config), config.width
        pool = dict(token="token", gap="avg", map="map")[config.head]
    document = dict(
        architecture=_architecture(published.name, config),
        num_classes=config.num_classes,
        num_features=width,
        global_pool=pool,
        model_args=arguments,
        pretrained_cfg=dict(
            num_classes=config.num_classes,
            classifier="head.fc" if isinstance(config, BiTConfig) else "head",
            **to_timm(Recipe.parse(published.pp), config.image_size),
        ),
    )
    if published.labels:
        document["label_names"] = published.labels
    return document


def _timm_arguments(config: ViTConfig) -> dict[str, Any]:
    lacks = ("posemb", "posemb_where", "attention_kind", "head", "distillation")
    has = {field: Any for field in _PLAIN if field not in lacks}
    head = config.head if config.head in ("gap", "map") else "token"
    distillation = "head" if config.distillation == "head" else "none"
    _require("timm", config, head=head, distillation=distillation, **has)
    arguments = dict(
        img_size=list(config.image_size),
        patch_size=_size(config.patch_size),
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
    """timm's name for the nearest model, which `model_args` completes.

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
    size = _TIMM_SIZES[variant]
    if config.distillation == "head":
        return f"deit_{size}_distilled_patch16_224"
    if config.mlp == "swiglu":
        return "vit_giant_patch14_dinov2"
    patches = _TIMM_PATCHES[variant]
    return f"vit_{size}_patch{patch if int(patch) in patches else patches[0]}_224"

"""ViT and its hybrid, DeiT, MAE, MSN, I-JEPA, DINOv2 and BiT in transformers."""

from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ModelConfig, feature_channels, feature_grid
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, QKV, Family, Recognised
from vit_jax.weights.formats.huggingface.beit import MLP_RENAMES, RENAMES
from vit_jax.weights.formats.huggingface.config import bit_hints, dinov2_hints, hints
from vit_jax.weights.formats.huggingface.directory import (
    TARGETS,
    VIT,
    Directory,
    Target,
    below,
    common,
)
from vit_jax.weights.formats.huggingface.processor import CROPPED, recipe
from vit_jax.weights.formats.rows import (
    RESNET,
    SIZES,
    dense,
    norm,
    other_epsilon,
    torch_resnet,
)
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, check_expressible, named

_LAYER = "encoder.layer.{l}"
_HUGGINGFACE: Table = {
    **dense("embedding", "embeddings.patch_embeddings.projection", "dipq", "d"),
    "cls": ("embeddings.cls_token", "11d"),
    "dist": ("embeddings.distillation_token", "11d"),
    "posemb/embedding": ("embeddings.position_embeddings", "1nd"),
    **dense("blocks/attention/qkv", f"{_LAYER}.attention.attention.{{t}}", "(hk)d", "(hk)"),
    **dense("blocks/attention/out", f"{_LAYER}.attention.output.dense", "d(hk)", "d"),
    **norm("norm", "layernorm"),
    **dense("head", "classifier", "oz", "o"),
}
_HF_BIT_UNIT = "encoder.stages.{s0}.layers.{c0}"
_HF_BACKBONE = "embeddings.patch_embeddings.backbone.bit"
HUGGINGFACE: Table = {
    **_HUGGINGFACE,
    **norm("blocks/norm1", f"{_LAYER}.layernorm_before"),
    **norm("blocks/norm2", f"{_LAYER}.layernorm_after"),
    **dense("blocks/mlp/fc1", f"{_LAYER}.intermediate.dense", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.output.dense", "dm", "d"),
    **dense("pre_logits", "pooler.dense", "ef", "e"),
    **dense("head_dist", "distillation_classifier", "od", "o"),
    **torch_resnet(
        "stem",
        f"{_HF_BACKBONE}.embedder.convolution",
        f"{_HF_BACKBONE}.embedder.norm",
        f"{_HF_BACKBONE}.{_HF_BIT_UNIT}",
    ),
}
DINOV2: Table = {
    **_HUGGINGFACE,
    "registers": ("embeddings.register_tokens", "1rd"),
    **norm("blocks/norm1", f"{_LAYER}.norm1"),
    **norm("blocks/norm2", f"{_LAYER}.norm2"),
    **dense("blocks/mlp/fc1", f"{_LAYER}.mlp.fc1", "md", "m"),
    **dense("blocks/mlp/gated", f"{_LAYER}.mlp.fc1", "(gm)d", "(gm)"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.mlp.fc2", "dm", "d"),
    "blocks/scale1": (f"{_LAYER}.layer_scale1.lambda1", "d"),
    "blocks/scale2": (f"{_LAYER}.layer_scale2.lambda1", "d"),
}
HUGGINGFACE_BIT: Table = {
    **torch_resnet("resnet", "embedder.convolution", "embedder.norm", _HF_BIT_UNIT),
    **norm("resnet/norm", "norm", "y"),
    **dense("head", "classifier.1", "oz", "o"),
}

_TEACHER = (r"^cls_classifier\.", "classifier.")
_DINOV2_RENAMES = (
    *RENAMES,
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
_DINOV2_SIGNATURE = "encoder.layer.0.layer_scale1.lambda1"


def _vit_recipe(found: Recognised) -> Recipe:
    """The preprocessing of a ViT, DeiT, MAE, MSN or I-JEPA."""
    if "embeddings.distillation_token" in found.tensors:
        return recipe(found, CROPPED)
    if found.config_json.get("model_type") in ("vit_mae", "vit_msn", "ijepa"):
        return recipe(found, Recipe(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    return recipe(found, Recipe())


def _add_dinov2(title: str, signature: tuple[str, ...], table: Table) -> None:
    prefixes = ("dinov2.", "dinov2_with_registers.")
    FAMILIES.add(
        title,
        Family(
            signature,
            table,
            dinov2_hints,
            recipe,
            prefixes,
            _DINOV2_RENAMES,
            aside=r"embeddings\.mask_token",
            words=QKV | dict(g=("gate", "up")),
            resample="bicubic",
        ),
    )


# transformers 5 may write the two halves of a gated MLP apart.
_add_dinov2(
    "Hugging Face DINOv2, halves apart",
    (_DINOV2_SIGNATURE, "encoder.layer.0.mlp.gate_proj.weight"),
    DINOV2 | dense("blocks/mlp/gated", f"{_LAYER}.mlp.{{g}}_proj", "md", "m"),
)
_add_dinov2("Hugging Face DINOv2", (_DINOV2_SIGNATURE,), DINOV2)
FAMILIES.add(
    "Hugging Face ViT",
    Family(
        "encoder.layer.0.layernorm_before.weight",
        HUGGINGFACE,
        hints,
        _vit_recipe,
        ("vit.", "deit.", "ijepa."),
        (*RENAMES, *MLP_RENAMES, _TEACHER),
        aside=r"embeddings\.mask_token",
        other=r"decoder\..*",
        resample="bicubic",
    ),
)
FAMILIES.add(
    "Hugging Face BiT",
    Family("embedder.convolution.weight", HUGGINGFACE_BIT, bit_hints, recipe, ("", "bit.")),
)


def _build(weights: Weights) -> Directory:
    """A directory of a ViT, hybrid, DeiT, DINOv2, I-JEPA or BiT."""
    config, kind = weights.config, model_type(weights.config)
    suffix = "ForImageClassification" if config.num_classes else "Model"
    lines: list[str] = []
    if isinstance(config, BiTConfig):
        tensors, lines = named(weights, "Hugging Face BiT"), other_epsilon(config, config.preact)
        document = _bit(config, config.preact)
    else:
        tensors = _vit_tensors(weights, config, kind)
        suffix += "WithTeacher" if config.distillation == "head" else ""
        document = _vit(config, kind)
        if kind in ("vit", "deit") and not (config.num_classes or config.pre_logits):
            lines.append(
                f"transformers' {_ARCHITECTURES[kind]}Model adds a random pooler, which this model "
                "lacks: give from_pretrained add_pooling_layer=False"
            )
    if config.num_classes:
        prefix = "vit." if kind == "vit-hybrid" else f"{kind}."
        outside = ("classifier.", "cls_classifier.", "distillation_classifier.")
        tensors = below(prefix, tensors, *outside)
    document |= dict(model_type=kind, num_channels=3)
    return Directory(_ARCHITECTURES[kind] + suffix, document, tensors, tuple(lines))


TARGETS.append(Target(lambda config: isinstance(config, (BiTConfig, ViTConfig)), _build))


def _vit_tensors(weights: Weights, config: ViTConfig, kind: str) -> dict[str, np.ndarray]:
    if not kind.startswith("dinov2"):
        teacher = [(r"^classifier\.", "cls_classifier.")] if config.distillation == "head" else []
        return named(weights, "Hugging Face ViT", teacher)
    renames = []
    if config.mlp == "swiglu":
        renames = [(r"\.mlp\.fc1\.", ".mlp.weights_in."), (r"\.mlp\.fc2\.", ".mlp.weights_out.")]
    tensors = named(weights, "Hugging Face DINOv2", renames)
    mask = weights.aside.get("mask_token", np.zeros((1, config.width), np.float32))
    tensors["embeddings.mask_token"] = mask.reshape(1, config.width)
    return tensors


def model_type(config: ModelConfig) -> str:
    """The `model_type` of transformers that can hold the model.

    Raises:
      InputError: there is none.
    """
    if isinstance(config, BiTConfig):
        check_expressible("transformers' BiT", config, RESNET | SIZES | dict(preact=ANY))
        return "bit"
    assert isinstance(config, ViTConfig)
    vit = VIT | dict(qkv_bias="none" if config.qkv_bias == "none" else "all")
    if config.distillation != "none":
        check_expressible("transformers' DeiT", config, vit | dict(distillation=ANY))
        return "deit"
    if config.layer_scale is not None or config.head == "token_gap":
        head = "token_gap" if config.num_classes else "token"
        scale = 1.0 if config.layer_scale is None else ANY
        has = dict(layer_scale=scale, registers=ANY, mlp=ANY, head=head)
        check_expressible("transformers' DINOv2", config, vit | has)
        return "dinov2_with_registers" if config.registers else "dinov2"
    if config.resnet_stages is not None:
        check_expressible("transformers' hybrid ViT", config, vit | RESNET)
        return "vit-hybrid"
    if config.head == "gap" and not config.has_class_token:
        check_expressible("transformers' I-JEPA", config, vit | dict(head="gap"))
        return "ijepa"
    # The base model alone has a representation layer.
    has = dict(pre_logits=0 if config.num_classes else ANY)
    check_expressible("transformers' ViT", config, vit | has)
    return "vit"


_ARCHITECTURES = {
    "vit": "ViT",
    "vit-hybrid": "ViTHybrid",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "ijepa": "IJepa",
    "bit": "Bit",
}


def _vit(config: ViTConfig, kind: str) -> dict[str, Any]:
    document = common(config) | dict(
        qkv_bias=config.qkv_bias == "all",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if config.pre_logits:
        document |= dict(pooler_act="tanh", pooler_output_size=config.pre_logits)
    if kind == "vit-hybrid":
        stages = config.stages
        grid = feature_grid(config.image_size, stages)
        channels = feature_channels(stages, config.resnet_width)
        backbone = dict(_bit(config, preact=False), model_type="bit")
        document |= dict(backbone_config=dict(backbone, out_features=[f"stage{len(stages)}"]))
        document |= dict(backbone_featmap_shape=[1, channels, *grid])
    if kind.startswith("dinov2"):
        document |= _dinov2(config)
    return document


def _dinov2(config: ViTConfig) -> dict[str, Any]:
    """Fields of DINOv2's config.json, which gives the width of the MLP as a ratio."""
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
    stages, width = config.stages, 64 * config.resnet_width
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

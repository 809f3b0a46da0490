"""Directories of transformers: ViT and its hybrid, DeiT, DINOv2, BiT."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ModelConfig, Size, feature_channels, feature_grid
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.huggingface.config import (
    PILLOW,
    bit_hints,
    dinov2_hints,
    hints,
    recipe,
    vit_recipe,
)
from vit_jax.weights.formats.rows import (
    RESNET,
    SIZES,
    dense,
    norm,
    other_epsilon,
    torch_resnet,
)
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe, other_preprocessing
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, check_expressible, named, save, side_length, weight_format

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

_DINOV2_RENAMES = (
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)


FAMILIES.add(
    "Hugging Face DINOv2",
    Family(
        "encoder.layer.0.layer_scale1.lambda1",
        DINOV2,
        dinov2_hints,
        recipe,
        ("", "dinov2.", "dinov2_with_registers."),
        _DINOV2_RENAMES,
        aside=r"embeddings\.mask_token",
        resample="bicubic",
    ),
)
FAMILIES.add(
    "Hugging Face ViT",
    Family(
        "encoder.layer.0.layernorm_before.weight",
        HUGGINGFACE,
        hints,
        vit_recipe,
        ("", "vit.", "deit."),
        ((r"^cls_classifier\.", "classifier."),),
        aside=r"embeddings\.mask_token",
        resample="bicubic",
    ),
)
FAMILIES.add(
    "Hugging Face BiT",
    Family("embedder.convolution.weight", HUGGINGFACE_BIT, bit_hints, recipe, ("", "bit.")),
)


@weight_format("huggingface", "")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes a directory that `from_pretrained` reads."""
    config = weights.config
    described = documents(weights)
    theirs = recipe(Recognised("", "", FAMILIES["Hugging Face ViT"], described))
    steps = other_preprocessing("transformers", weights.pp, theirs.spec(config.image_size))
    files = {path / name: document for name, document in described.items()}
    files[path / "vit_jax.json"] = dict(report=weights.report)
    kind = model_type(config)
    if isinstance(config, BiTConfig):
        tensors, lines = named(weights, "Hugging Face BiT"), other_epsilon(config, config.preact)
    else:
        tensors, lines = _vit_tensors(weights, config, kind), []
    if config.num_classes:
        prefix = "vit." if kind == "vit-hybrid" else f"{kind}."
        tensors = {
            name if "classifier" in name else prefix + name: array
            for name, array in tensors.items()
        }
    return [*save(path / "model.safetensors", tensors, files), *lines, *steps]


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


_RESNET = dict.fromkeys(
    ("resnet_stages", "resnet_width", "resnet_norm_eps", "resnet_conv_eps"), ANY
)
# Options that config.json holds for every ViT.
_VIT = SIZES | dict.fromkeys(
    ("width", "depth", "mlp_dim", "num_heads", "patch_size", "gelu", "norm_eps"), ANY
)


def model_type(config: ModelConfig) -> str:
    """The `model_type` of transformers that can hold the model.

    Raises:
      InputError: there is none.
    """
    if isinstance(config, BiTConfig):
        check_expressible("transformers' BiT", config, RESNET | SIZES | dict(preact=ANY))
        return "bit"
    if not isinstance(config, ViTConfig):
        raise InputError(f"transformers has no {type(config).__name__}; write .npz instead")
    if config.distillation != "none":
        check_expressible("transformers' DeiT", config, _VIT | dict(distillation=ANY))
        return "deit"
    if config.layer_scale is not None or config.head == "token_gap":
        head = "token_gap" if config.num_classes else "token"
        has = dict(layer_scale=ANY, registers=ANY, mlp=ANY, head=head)
        check_expressible("transformers' DINOv2", config, _VIT | has)
        return "dinov2_with_registers" if config.registers else "dinov2"
    if config.resnet_stages is not None:
        check_expressible("transformers' hybrid ViT", config, _VIT | RESNET)
        return "vit-hybrid"
    # The base model alone has a representation layer.
    has = dict(pre_logits=0 if config.num_classes else ANY)
    check_expressible("transformers' ViT", config, _VIT | has)
    return "vit"


_ARCHITECTURES = {
    "vit": "ViT",
    "vit-hybrid": "ViTHybrid",
    "deit": "DeiT",
    "dinov2": "Dinov2",
    "dinov2_with_registers": "Dinov2WithRegisters",
    "bit": "Bit",
}


def documents(weights: Weights) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json of transformers, by file name."""
    config = weights.config
    kind = model_type(config)
    suffix = "ForImageClassification" if config.num_classes else "Model"
    if isinstance(config, ViTConfig) and config.distillation == "head":
        suffix += "WithTeacher"
    names = weights.labels or [f"LABEL_{i}" for i in range(config.num_classes)]
    document = dict(
        architectures=[_ARCHITECTURES[kind] + suffix],
        model_type=kind,
        dtype="float32",
        num_channels=3,
        id2label={str(i): name for i, name in enumerate(names)},
        label2id={name: i for i, name in enumerate(names)},
        **(_vit(config, kind) if isinstance(config, ViTConfig) else _bit(config, config.preact)),
    )
    if weights.multi_label:
        document["problem_type"] = "multi_label_classification"
    preprocessor = to_huggingface(Recipe.parse(weights.pp), config.image_size)
    return {"config.json": document, "preprocessor_config.json": preprocessor}


def _vit(config: ViTConfig, kind: str) -> dict[str, Any]:
    document: dict[str, Any] = dict(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        hidden_act="gelu" if config.gelu == "erf" else "gelu_pytorch_tanh",
        layer_norm_eps=config.norm_eps,
        image_size=side_length(config.image_size),
        patch_size=side_length(config.patch_size),
        qkv_bias=True,
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


def to_huggingface(recipe: Recipe, size: Size) -> dict[str, Any]:
    """The content of preprocessor_config.json with the same preprocessing."""
    height, width = size
    config = dict(
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=list(recipe.mean),
        image_std=list(recipe.std),
        resample=next(number for number, name in PILLOW.items() if name == recipe.method),
        rescale_factor=1 / 255,
    )
    if recipe.squash and recipe.share == 1.0:
        return dict(
            config, image_processor_type="ViTImageProcessor", size=dict(height=height, width=width)
        )
    config |= dict(do_center_crop=True, crop_size=dict(height=height, width=width))
    if recipe.squash:
        whole = dict(height=round(height / recipe.share), width=round(width / recipe.share))
        return dict(config, image_processor_type="DeiTImageProcessor", size=whole)
    shorter = dict(shortest_edge=round(min(size) / recipe.share))
    return dict(config, image_processor_type="BitImageProcessor", size=shorter)

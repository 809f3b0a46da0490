"""Writes timm's files: the tensors, and the config.json from which timm builds the model."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, Size
from vit_jax.models.variants import model_config
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.description import own_description, sidecar
from vit_jax.weights.formats.rows import RESNET, SIZES, other_epsilon
from vit_jax.weights.formats.timm import classes
from vit_jax.weights.formats.timm.config import prepared_by
from vit_jax.weights.preprocessing import Recipe, other_preprocessing
from vit_jax.weights.record import Weights
from vit_jax.weights.write import (
    Tensors,
    check_expressible,
    named,
    save,
    weight_format,
)

# Architectures of hybrids by ResNet and nominal patch; the rest goes into the arguments.
_HYBRIDS = {
    "R/16": "vit_tiny_r_s16_p8_224",
    "R26/32": "vit_small_r26_s32_224",
    "R50/16": "vit_base_r50_s16_224",
    "R50/32": "vit_large_r50_s32_224",
}
_BITS = {
    f"BiT-R{size}": f"resnetv2_{size}_bit"
    for size in ("50x1", "50x3", "101x1", "101x3", "152x2", "152x4")
}


@weight_format("timm", ".safetensors", "")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes a file with a sidecar, or a directory with timm's config.json."""
    config = weights.config
    if isinstance(config, BiTConfig):
        document = _bit_document(weights, config)
        tensors, lines = named(weights, "timm BiT"), other_epsilon(config, config.preact)
    else:
        described = classes.describe(
            config, weights.name, _resnet_architecture(weights.name, config)
        )
        document = _vit_document(weights, config, described)
        tensors = _renamed(named(weights, "timm ViT"), config, described)
        lines = [f"timm's norm epsilon is {described.epsilon:g}, not {config.norm_eps:g}"]
        lines = lines if config.norm_eps != described.epsilon else []
        lines = [line.replace("1e-06", "1e-6") for line in lines]
    lines += [f"left out, timm has none: {name}" for name in weights.aside]
    own = own_description(weights)
    if path.suffix:
        return [*save(path, tensors, {sidecar(path): own}), *lines]
    theirs = prepared_by(document["pretrained_cfg"]).spec(config.image_size)
    lines += other_preprocessing("timm", weights.pp, theirs)
    files = {path / "config.json": dict(document, vit_jax=own)}
    return [*save(path / "model.safetensors", tensors, files), *lines]


def _renamed(tensors: Tensors, config: ViTConfig, described: classes.Described) -> Tensors:
    """Tensors of the table's names under those of timm's class."""
    tensors = dict(tensors)
    if config.block == "parallel":
        _join_in_proj(tensors, config.depth)
    if described.split_gate and config.mlp == "swiglu":
        for name in [name for name in tensors if ".mlp.fc1." in name and "attn_pool" not in name]:
            gate, value = np.split(tensors.pop(name), 2)
            tensors[name.replace("fc1.", "fc1_g.")] = np.ascontiguousarray(gate)
            tensors[name.replace("fc1.", "fc1_x.")] = np.ascontiguousarray(value)
    renames = list(described.renames)
    if config.pool_then_norm:
        renames.append((r"^norm\.", "fc_norm."))
    if config.resnet_stages == ():
        renames.append((r"^patch_embed\.backbone\.stem\.", "patch_embed.backbone."))
    for pattern, replacement in renames:
        tensors = {re.sub(pattern, replacement, name): array for name, array in tensors.items()}
    return tensors


def _join_in_proj(tensors: Tensors, depth: int) -> None:
    """Joins the MLP's first layer and queries, keys, values of parallel blocks."""
    for layer in range(depth):
        for end in ("weight", "bias"):
            first, second = (f"blocks.{layer}.{part}.{end}" for part in ("mlp.fc1", "attn.qkv"))
            if second in tensors:
                joined = np.concatenate([tensors.pop(first), tensors.pop(second)])
                tensors[f"blocks.{layer}.in_proj.{end}"] = joined


def _bit_document(weights: Weights, config: BiTConfig) -> dict[str, Any]:
    if not config.preact:
        raise InputError("timm has no post-activation BiT; write .npz instead")
    check_expressible("timm", config, RESNET | SIZES | dict(preact=True))
    arguments = dict(layers=list(config.stages))
    architecture = _resnet_architecture(weights.name, config)
    return _document(weights, architecture, arguments, "avg", config.feature_width, "head.fc")


def _vit_document(
    weights: Weights, config: ViTConfig, described: classes.Described
) -> dict[str, Any]:
    pool = dict(token="token", gap="avg", map="map")[config.head]
    architecture, arguments = described.architecture, described.arguments
    return _document(weights, architecture, arguments, pool, config.width, "head")


def _document(
    weights: Weights, architecture: str, arguments: dict, pool: str, width: int, classifier: str
) -> dict[str, Any]:
    """The content of timm's config.json, without the key "vit_jax"."""
    num_classes = weights.config.num_classes
    document = dict(
        architecture=architecture,
        num_classes=num_classes,
        num_features=width,
        global_pool=pool,
        model_args=dict(arguments, num_classes=num_classes, global_pool=pool),
        pretrained_cfg=dict(
            num_classes=num_classes,
            classifier=classifier,
            **to_timm(Recipe.parse(weights.pp), weights.config.image_size),
        ),
    )
    if weights.labels:
        document["label_names"] = weights.labels
    return document


def _resnet_architecture(name: str, config: ViTConfig | BiTConfig) -> str:
    """timm's name of the architecture with this ResNet; "" if the model has none.

    Raises:
      InputError: no architecture has this ResNet.
    """
    stages = config.resnet_stages
    if stages is None:
        return ""
    known = _HYBRIDS | _BITS
    key = re.sub(r"\+ViT-[^/]+/", "/", name)
    if key not in known or model_config(name).resnet_stages != stages:
        raise InputError(f"timm has no {name} with stages {stages}; write .npz instead")
    return known[key]


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

"""The image tower of CLIP (2103.00020) in transformers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.huggingface.config import close, image_tower, network
from vit_jax.weights.formats.huggingface.directory import (
    TARGETS,
    Directory,
    Target,
    below,
    check,
    common,
)
from vit_jax.weights.formats.huggingface.processor import CLIP_MEAN, CLIP_STD, recipe
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, named

_LAYER = "encoder.layers.{l}"
# Of the blocks in CLIP and SigLIP.
BLOCKS: Table = {
    "posemb/embedding": ("embeddings.position_embedding.weight", "nd"),
    **norm("blocks/norm1", f"{_LAYER}.layer_norm1"),
    **dense("blocks/attention/qkv", f"{_LAYER}.self_attn.{{t}}_proj", "(hk)d", "(hk)"),
    **dense("blocks/attention/out", f"{_LAYER}.self_attn.out_proj", "d(hk)", "d"),
    **norm("blocks/norm2", f"{_LAYER}.layer_norm2"),
    **dense("blocks/mlp/fc1", f"{_LAYER}.mlp.fc1", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.mlp.fc2", "dm", "d"),
    **norm("norm", "post_layernorm"),
    **dense("head", "classifier", "oz", "o"),
}
TABLE: Table = {
    **BLOCKS,
    **dense("embedding", "embeddings.patch_embedding", "dipq", "d"),
    "cls": ("embeddings.class_embedding", "d"),
    **norm("norm_pre", "pre_layrnorm"),
    "projection/kernel": ("visual_projection.weight", "ef"),
}
WORDS = dict(t="qkv")
# A text tower, what compares texts with images, and buffers.
OTHER = r"text_model\..*|text_projection\.weight|logit_(scale|bias)|(.*\.)?position_ids"
CLIP_RECIPE = Recipe(1.0, False, "bicubic", True, CLIP_MEAN, CLIP_STD, truncate=True)


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration; see `config.hints`."""
    config = image_tower(found, "clip", "clip_vision_model", aside=())
    result = network(config, found, dict(num_heads=12, gelu="quick", norm_eps=1e-5))
    config.ignore(("projection_dim", "logit_scale_init_value"))
    close(config)
    result["head"] = "gap" if "classifier.weight" in found.tensors else "token"
    return result


def _recipe(found: Recognised) -> Recipe:
    return recipe(found, CLIP_RECIPE)


_PREFIXES = ("vision_model.",)
# The classifier sees the mean of patch tokens that no last norm has changed.
FAMILIES.add(
    "Hugging Face CLIP classifier",
    Family(
        ("pre_layrnorm.weight", "embeddings.class_embedding", "classifier.weight"),
        TABLE,
        _hints,
        _recipe,
        _PREFIXES,
        aside=r"post_layernorm\..*",
        other=OTHER,
        words=WORDS,
        resample="bicubic",
    ),
)
FAMILIES.add(
    "Hugging Face CLIP",
    Family(
        ("pre_layrnorm.weight", "embeddings.class_embedding"),
        TABLE,
        _hints,
        _recipe,
        _PREFIXES,
        other=OTHER,
        words=WORDS,
        resample="bicubic",
    ),
)


def _build(weights: Weights) -> Directory:
    config = weights.config
    assert isinstance(config, ViTConfig)
    classifies = bool(config.num_classes)
    check(
        "transformers' CLIP",
        config,
        square=True,
        norm_pre=True,
        patch_bias=False,
        head="gap" if classifies else "token",
        class_token=True if classifies else ANY,
        final_norm=not classifies,
        projection=0 if classifies else ANY,
    )
    tower = common(config) | dict(model_type="clip_vision_model")
    tower["projection_dim"] = config.projection or 512
    if not classifies:
        tensors = named(weights, "Hugging Face CLIP")
        if not config.projection:
            return Directory("CLIPVisionModel", tower, tensors)
        tensors = below("vision_model.", tensors, "visual_projection.")
        return Directory("CLIPVisionModelWithProjection", tower, tensors)
    tensors = named(weights, "Hugging Face CLIP classifier")
    for name, usual in (("weight", np.ones), ("bias", np.zeros)):
        key = f"post_layernorm.{name}"
        tensors[key] = weights.aside.get(key, usual(config.width, np.float32))
    document = dict(model_type="clip", vision_config=tower, projection_dim=tower["projection_dim"])
    tensors = below("vision_model.", tensors, "classifier.")
    return Directory("CLIPForImageClassification", document, tensors)


TARGETS.append(Target(lambda config: isinstance(config, ViTConfig) and config.norm_pre, _build))

"""The image tower of AIMv2 (2411.14402) in transformers."""

from collections.abc import Mapping
from typing import Any

from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.huggingface.clip import CLIP_RECIPE, OTHER
from vit_jax.weights.formats.huggingface.config import agrees, close, image_tower, network
from vit_jax.weights.formats.huggingface.directory import (
    TARGETS,
    Directory,
    Target,
    check,
    common,
)
from vit_jax.weights.formats.huggingface.processor import recipe
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import named

_LAYER = "encoder.layers.{l}"
TABLE: Table = {
    **dense("embedding", "embeddings.patch_embed", "dipq", "d"),
    **norm("patch_norm", "embeddings.rms_norm"),
    "posemb/embedding": ("embeddings.position_embedding.weight", "nd"),
    **norm("blocks/norm1", f"{_LAYER}.rms_norm1"),
    **dense("blocks/attention/qkv", f"{_LAYER}.attention.{{t}}_proj", "(hk)d", "(hk)"),
    **dense("blocks/attention/out", f"{_LAYER}.attention.out_proj", "d(hk)", "d"),
    **norm("blocks/norm2", f"{_LAYER}.rms_norm2"),
    **dense("blocks/mlp/gated", f"{_LAYER}.ffn.{{g}}_proj", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.ffn.down_proj", "dm", "d"),
    **norm("norm", "rms_norm"),
}
_NATIVE = "sincos2d(endpoint=False)"  # the positions of models for images of any size


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration; see `config.hints`."""
    config = image_tower(found, "aimv2", "aimv2_vision_model", aside=("max_logit_scale",))
    result = network(config, found, dict(num_heads=8, norm_eps=1e-5), "rms_norm_eps")
    config.only("hidden_act", "silu")
    agrees(config, "qkv_bias", "encoder.layers.0.attention.q_proj.bias" in found.tensors)
    agrees(config, "mlp_bias", "encoder.layers.0.ffn.down_proj.bias" in found.tensors)
    native = "embeddings.position_embedding.weight" not in found.tensors
    agrees(config, "is_native", native)
    pools = "head.cls_token" in found.aside
    agrees(config, "use_head", pools)
    close(config)
    result |= dict(gelu="erf", head="gap")  # the MLPs are gated and have no GELU
    if native:
        result["posemb"] = _NATIVE
    if pools:
        result["notes"] = (
            "features are the mean of the patches here, not AIMv2's attention pooling (head.*)",
        )
    return result


def _recipe(found: Recognised) -> Recipe:
    return recipe(found, CLIP_RECIPE)


FAMILIES.add(
    "Hugging Face AIMv2",
    Family(
        ("embeddings.rms_norm.weight", "embeddings.patch_embed.weight"),
        TABLE,
        _hints,
        _recipe,
        ("vision_model.",),
        aside=r"head\..*",
        other=rf"{OTHER}|visual_projection\.weight",
        words=dict(t="qkv", g=("gate", "up")),
        resample="bicubic",
    ),
)


def _build(weights: Weights) -> Directory:
    config = weights.config
    assert isinstance(config, ViTConfig)
    biases = config.qkv_bias == "all"
    native = config.posemb != "learned"
    check(
        "transformers' AIMv2",
        config,
        square=True,
        num_classes=0,
        norm="rms",
        patch_norm=True,
        mlp="swiglu",
        mlp_bias=config.mlp_bias,
        qkv_bias="all" if biases else "none",
        out_bias=biases,
        posemb=_NATIVE if native else "learned",
        head="gap",
    )
    head = {name: array for name, array in weights.aside.items() if name.startswith("head.")}
    document = common(config, "rms_norm_eps") | dict(
        model_type="aimv2_vision_model",
        hidden_act="silu",
        qkv_bias=biases,
        mlp_bias=config.mlp_bias,
        is_native=native,
        use_head=bool(head),
    )
    return Directory("Aimv2VisionModel", document, named(weights, "Hugging Face AIMv2") | head)


TARGETS.append(
    Target(lambda config: isinstance(config, ViTConfig) and config.norm == "rms", _build)
)

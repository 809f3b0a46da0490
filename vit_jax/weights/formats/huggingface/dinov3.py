"""DINOv3 (2508.10104) in transformers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.positions.rotary import Centred
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.huggingface.config import agrees, close, network, opened, registers
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
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, named

_LAYER = "layer.{l}"
_ATTENTION = f"{_LAYER}.attention"
TABLE: Table = {
    **dense("embedding", "embeddings.patch_embeddings", "dipq", "d"),
    "cls": ("embeddings.cls_token", "11d"),
    "registers": ("embeddings.register_tokens", "1rd"),
    **norm("blocks/norm1", f"{_LAYER}.norm1"),
    **dense("blocks/attention/qkv", f"{_ATTENTION}.{{t}}_proj", "(hk)d", "(hk)"),
    "blocks/attention/query_value/bias": (f"{_ATTENTION}.{{j}}_proj.bias", "(hk)"),
    **dense("blocks/attention/out", f"{_ATTENTION}.o_proj", "d(hk)", "d"),
    "blocks/scale1": (f"{_LAYER}.layer_scale1.lambda1", "d"),
    **norm("blocks/norm2", f"{_LAYER}.norm2"),
    **dense("blocks/mlp/fc1", f"{_LAYER}.mlp.up_proj", "md", "m"),
    **dense("blocks/mlp/gated", f"{_LAYER}.mlp.{{g}}_proj", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.mlp.down_proj", "dm", "d"),
    "blocks/scale2": (f"{_LAYER}.layer_scale2.lambda1", "d"),
    **norm("norm", "norm"),
}


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration; see `config.hints`."""
    config = opened(found)
    config.only("model_type", "dinov3_vit")
    gated = "layer.0.mlp.gate_proj.weight" in found.tensors
    agrees(config, "use_gated_mlp", gated)
    result: dict[str, Any] = dict(gelu="erf")  # which a gated MLP does not use
    defaults: dict[str, Any] = dict(norm_eps=1e-5, num_heads=6)
    if gated:
        config.only("hidden_act", "silu")
    else:
        defaults["gelu"] = "erf"
    result |= {key: value for key, value in network(config, found, defaults).items() if value}
    for name, tensor in _BIASES.items():
        agrees(config, name, f"layer.0.{tensor}.bias" in found.tensors)
    registers(config, found)
    result["layer_scale"] = config.take("layerscale_value", float)
    base = config.take("rope_theta", float, 100.0)
    off = 1.0 if "pos_embed_rescale" in found.config_json else 2.0  # null or missing
    rescale = config.take("pos_embed_rescale", float, off)
    result |= dict(posemb="none", rotary=_rotary(base, rescale))
    result["notes"] = tuple(
        f"coordinates of patches are not changed at random in training here ({name})"
        for name in ("pos_embed_shift", "pos_embed_jitter")
        if config.take(name, float) is not None
    )
    close(config)
    return result


_BIASES = dict(
    query_bias="attention.q_proj",
    key_bias="attention.k_proj",
    value_bias="attention.v_proj",
    proj_bias="attention.o_proj",
    mlp_bias="mlp.down_proj",
)


def _rotary(base: float, rescale: float) -> str:
    """The option `rotary`."""
    given = dict(base=(base, 100.0), rescale=(rescale, 1.0))
    arguments = ", ".join(f"{key}={x}" for key, (x, default) in given.items() if x != default)
    return f"centred({arguments})" if arguments else "centred"


def _without_empty(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Files without registers hold an empty tensor of them."""
    return [(name, array)] if array.size else []


def _recipe(found: Recognised) -> Recipe:
    return recipe(found, Recipe(mean=IMAGENET_MEAN, std=IMAGENET_STD))


FAMILIES.add(
    "Hugging Face DINOv3",
    Family(
        ("layer.0.layer_scale1.lambda1", "layer.0.attention.q_proj.weight"),
        TABLE,
        _hints,
        _recipe,
        renames=((r"^model\.layer\.", "layer."),),
        aside=r"embeddings\.mask_token",
        unpack=_without_empty,
        words=dict(t="qkv", j="qv", g=("gate", "up")),
        resample="bicubic",
    ),
)


def _build(weights: Weights) -> Directory:
    config = weights.config
    assert isinstance(config, ViTConfig)
    gated = config.mlp == "swiglu"
    check(
        "transformers' DINOv3",
        config,
        num_classes=0,
        posemb="none",
        rotary=ANY,
        registers=ANY,
        layer_scale=1.0 if config.layer_scale is None else ANY,
        mlp=ANY,
        qkv_bias=ANY,
        out_bias=ANY,
        mlp_bias=ANY,
    )
    kind = config.rotary_kind
    if not isinstance(kind, Centred) or kind.layout != "half":
        raise InputError(
            f"transformers' DINOv3 has no model with rotary={config.rotary!r}; write .npz instead"
        )
    document = common(config) | dict(
        model_type="dinov3_vit",
        use_gated_mlp=gated,
        query_bias=config.qkv_bias != "none",
        key_bias=config.qkv_bias == "all",
        value_bias=config.qkv_bias != "none",
        proj_bias=config.out_bias,
        mlp_bias=config.mlp_bias,
        num_register_tokens=config.registers,
        layerscale_value=config.layer_scale,
        rope_theta=kind.base,
        pos_embed_rescale=None if kind.rescale == 1.0 else kind.rescale,
        pos_embed_shift=None,
        pos_embed_jitter=None,
        drop_path_rate=0.0,
    )
    if gated:
        document["hidden_act"] = "silu"
    tensors = named(weights, "Hugging Face DINOv3")
    mask = weights.aside.get("mask_token", np.zeros(config.width, np.float32))
    tensors["embeddings.mask_token"] = mask.reshape(1, 1, config.width)
    if not config.registers:
        tensors["embeddings.register_tokens"] = np.zeros((1, 0, config.width), np.float32)
    return Directory("DINOv3ViTModel", document, tensors)


TARGETS.append(
    Target(lambda config: isinstance(config, ViTConfig) and config.rotary != "none", _build)
)

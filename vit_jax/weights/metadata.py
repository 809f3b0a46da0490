"""What travels beside the tensors: config.json, preprocessor_config.json, sidecars.

A sidecar (x.npz.json beside x.npz, or the key "vit_jax" of timm's config.json) is
ours and says everything: {"model": {"name", options...}, "pp", "labels"}. The other JSON
files are read for what tensors do not tell; where there is none, the family's habit counts.
How images are prepared is in `preprocessing`.
"""

import re
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.weights.families import Recognised

GELU = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu_tanh": "tanh",
}


def sidecar(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Our own description of the file, {} where there is none."""
    own = configs.get("sidecar") or configs.get("config.json", {}).get("vit_jax") or {}
    return own if isinstance(own, dict) and "model" in own else {}


def hints(path: str, found: Recognised, configs: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the model's configuration that names and shapes do not tell.

    Raises:
      InputError: the JSON asks for what no model here does.
    """
    config = configs.get("config.json", {})
    if found.family.format == "google":
        return dict(gelu="tanh", norm_eps=1e-6)
    if found.family.format == "timm":
        return _timm_hints(path, found, config)
    if found.family.name == "Hugging Face BiT":
        return _huggingface_bit_hints(path, config)
    if config.get("qkv_bias") is False:
        raise InputError(f"{path}: qkv_bias false is not supported; attention has biases here")
    if config.get("pooler_act", "tanh") != "tanh":
        raise InputError(f"{path}: pooler_act {config['pooler_act']} is not supported, only tanh")
    eps = 1e-6 if found.family.name == "Hugging Face DINOv2" else 1e-12
    return dict(
        num_heads=config.get("num_attention_heads"),
        norm_eps=config.get("layer_norm_eps", eps),
        gelu=_gelu(config.get("hidden_act", "gelu")),
        image_size=config.get("image_size"),
        layer_scale=config.get("layerscale_value"),
        **_TORCH_RESNET,
    )


# Of the BiT code in timm and transformers, pre-activation or not.
_TORCH_RESNET = dict(resnet_norm_eps=1e-5, resnet_conv_eps=1e-8)


def _gelu(name: str) -> str:
    if name not in GELU:
        raise unknown("activation", name, GELU)
    return GELU[name]


def _timm_hints(path: str, found: Recognised, config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = config.get("model_args", {})
    pretrained = config.get("pretrained_cfg", {})
    pooled = any(name.endswith("fc_norm.weight") for name in found.original.values())
    size = arguments.get("img_size") or pretrained.get("input_size", [0])[1:]
    pool = config.get("global_pool") or arguments.get("global_pool") or ""
    if pool not in ("", "token", "avg", "map"):
        raise InputError(f"{path}: global_pool {pool} is not supported, only token, avg and map")
    return dict(
        num_heads=arguments.get("num_heads"),
        norm_eps=1e-6,
        gelu=_gelu(arguments.get("act_layer") or _timm_activation(config)),
        image_size=size or None,
        layer_scale=arguments.get("init_values"),
        head="gap" if pooled or pool == "avg" else None,
        pool_then_norm=pooled,
        **_TORCH_RESNET,
    )


# timm's architectures that imply the tanh approximation: SigLIP's image towers of later date.
_TIMM_TANH = re.compile(r"vit_(so400m_patch16_siglip|giantopt_patch16_siglip|large_.*siglip.*_512)")


def _timm_activation(config: Mapping[str, Any]) -> str:
    return "gelu_tanh" if _TIMM_TANH.match(config.get("architecture", "")) else "gelu"


def _huggingface_bit_hints(path: str, config: Mapping[str, Any]) -> dict[str, Any]:
    wanted = dict(
        num_groups=32, hidden_act="relu", output_stride=32, embedding_dynamic_padding=False
    )
    if config.get("layer_type") == "bottleneck":
        wanted |= dict(global_padding="SAME", embedding_dynamic_padding=True)
    elif config:
        wanted |= dict(global_padding=None)
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise InputError(f"{path}: {key} {config[key]!r} is not supported, only {value!r}")
    return dict(_TORCH_RESNET)


def labels(configs: Mapping[str, Any], num_classes: int) -> list[str]:
    """Class names by index; [] where the file has none."""
    config = configs.get("config.json", {})
    named = config.get("label_names", [])
    by_id = config.get("id2label", {})
    if by_id:
        named = [by_id.get(str(i), "") for i in range(num_classes)]
    if len(named) != num_classes or named == [f"LABEL_{i}" for i in range(num_classes)]:
        return []
    return [str(name) for name in named]

"""What travels beside the tensors: config.json, preprocessor_config.json, sidecars.

A sidecar (x.json of x.npz or x.safetensors, or the key "vit_jax" of timm's config.json) is
ours and says everything: {"model": {"name", options...}, "pp", "labels"}. The other JSON
files are read for what tensors do not tell; where there is none, the family's habit counts.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoint.convert.families import Recognised
from vit_jax.errors import InputError, unknown

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GELU = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu_tanh": "tanh",
}
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


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
        return _timm_hints(found, config)
    if found.family.name == "Hugging Face BiT":
        return _huggingface_bit_hints(path, config)
    if config.get("qkv_bias") is False:
        raise InputError(f"{path}: qkv_bias false is not supported; attention has biases here")
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


def _timm_hints(found: Recognised, config: Mapping[str, Any]) -> dict[str, Any]:
    arguments = config.get("model_args", {})
    pretrained = config.get("pretrained_cfg", {})
    pooled = any(name.endswith("fc_norm.weight") for name in found.original.values())
    size = arguments.get("img_size") or pretrained.get("input_size", [0])[1:]
    pool = config.get("global_pool") or arguments.get("global_pool")
    return dict(
        num_heads=arguments.get("num_heads"),
        norm_eps=1e-6,
        gelu=_gelu(arguments.get("act_layer", "gelu")),
        image_size=size or None,
        layer_scale=arguments.get("init_values"),
        head="gap" if pooled or pool == "avg" else None,
        pool_then_norm=pooled,
        **_TORCH_RESNET,
    )


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


def preprocessing(found: Recognised, configs: Mapping[str, Any], size: tuple[int, int]) -> str:
    """Preprocessing for evaluation at `size` (height, width), in the words of vit_jax.data.

    Images are resized and cropped by the same share as where the weights come from.
    """
    if found.family.format == "timm":
        return _timm_preprocessing(found, configs.get("config.json", {}), size)
    if found.family.format == "huggingface":
        return _huggingface_preprocessing(found, configs.get("preprocessor_config.json"), size)
    big_vision = not any("LayerNorm_2" in name for name in found.original.values())
    if found.family.name == "Google ViT" and big_vision:
        return crop(size, 7 / 8, "bilinear", HALF, HALF)
    return _spec([f"resize({_show(size)})"], HALF, HALF)


def crop(size: tuple[int, int], share: float, method: str, mean: Any, std: Any) -> str:
    """Resizes so that `size` is `share` of the smaller side, and cuts out the middle."""
    whole = tuple(round(side / share) for side in size)
    resize = f"resize_small({_show(whole)}, method='{method}', antialias=True)"
    return _spec([resize, f"central_crop({_show(size)})"], mean, std)


def _spec(operations: list[str], mean: Any, std: Any) -> str:
    mean, std = (tuple(round(float(x), 6) for x in triple) for triple in (mean, std))
    if (mean, std) == (HALF, HALF):
        return "|".join([*operations, "value_range(-1, 1)"])
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "|".join([*operations, "normalize"])
    return "|".join([*operations, f"normalize(mean={mean}, std={std})"])


def _show(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else str(tuple(size))


def _timm_preprocessing(found: Recognised, config: Mapping[str, Any], size: tuple[int, int]) -> str:
    pretrained = config.get("pretrained_cfg", {})
    imagenet = "dist_token" in found.tensors or found.aside
    mean = pretrained.get("mean", IMAGENET_MEAN if imagenet else HALF)
    std = pretrained.get("std", IMAGENET_STD if imagenet else HALF)
    share = pretrained.get("crop_pct") or 0.9
    return crop(size, share, pretrained.get("interpolation", "bicubic"), mean, std)


def _huggingface_preprocessing(
    found: Recognised, config: Mapping[str, Any] | None, size: tuple[int, int]
) -> str:
    plain = found.family.name == "Hugging Face ViT" and "embeddings.distillation_token" not in (
        found.tensors
    )
    if config is None:
        if plain:
            return _spec([f"resize({_show(size)}, antialias=True)"], HALF, HALF)
        return crop(size, 224 / 256, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    default = (HALF, HALF) if plain else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (config.get(key, d) for key, d in zip(("image_mean", "image_std"), default))
    method = RESAMPLE.get(config.get("resample", 2), "bilinear")
    resized, cropped = config.get("size", {}), config.get("crop_size", {})
    resized = dict(height=resized, width=resized) if isinstance(resized, int) else resized
    cropped = dict(height=cropped, width=cropped) if isinstance(cropped, int) else cropped
    whole = resized.get("shortest_edge") or resized.get("height")
    if config.get("do_center_crop") and whole and cropped:
        return crop(size, cropped["height"] / whole, method, mean, std)
    if "shortest_edge" in resized:
        return crop(size, 1.0, method, mean, std)
    return _spec([f"resize({_show(size)}, method='{method}', antialias=True)"], mean, std)


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

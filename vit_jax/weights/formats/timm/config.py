"""Reads timm's config.json: the network's options and the preprocessing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import InputError, nearest
from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.rows import TORCH_RESNET
from vit_jax.weights.formats.timm.architectures import architecture, architectures
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe

# Fields that do not change what a model computes from given tensors.
_ABOUT = ("num_features", "label_names", "label_descriptions", "tags", "license", "vit_jax")
_PRETRAINED = (
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture"),
    *("tag", "custom_load", "test_input_size", "test_crop_pct", "min_input_size", "num_classes"),
    *("pool_size", "test_pool_size", "first_conv", "classifier", "license", "description"),
    *("origin_url", "paper_name", "paper_ids", "notes", "label_names", "label_descriptions"),
    *("num_features",),
)
_TRAINING = (
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "weight_init", "fix_init", "zero_init_last", "device", "dtype"),
)
_LAYER_NORMS = {"layernorm": 1e-6, "layernormfp32": 1e-6, "layernorm(1e-05)": 1e-5}
_GELU = {"gelu": "erf", "gelu_tanh": "tanh"}
_METHODS = ("bicubic", "bilinear", "nearest")


@dataclasses.dataclass(frozen=True)
class Described:
    """What config.json says.

    Attributes:
      hints: fields of the model's configuration.
      recipe: preprocessing of images.
    """

    hints: Mapping[str, Any]
    recipe: Recipe


def hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the model's configuration, from config.json or from what is usual.

    Raises:
      InputError: config.json asks for something that the models here do not have.
    """
    if "config.json" in found.configs:
        return describe(found).hints
    pooled = has_fc_norm(found)
    return dict(
        norm_eps=1e-6,
        # SigLIP's towers pool by attention: some compute GELU by tanh, some by erf.
        gelu=None if "attn_pool.latent" in found.tensors else "erf",
        head="gap" if pooled else None,
        pool_then_norm=pooled,
        **TORCH_RESNET,
    )


def recipe(found: Recognised) -> Recipe:
    """The preprocessing in config.json; without that file timm's default."""
    if "config.json" in found.configs:
        return describe(found).recipe
    return Recipe(224 / 256, False, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD, True, True)


def prepared_by(pretrained_cfg: Mapping[str, Any]) -> Recipe:
    """The preprocessing that a `pretrained_cfg` says."""
    config = Fields(pretrained_cfg, "pretrained_cfg")
    config.ignore(("fixed_input_size",))
    return _preprocessing(config)[1]


def has_fc_norm(found: Recognised) -> bool:
    """Whether the last norm of the file is the one after pooling."""
    return any(name.endswith("fc_norm.weight") for name in found.original.values())


def describe(found: Recognised) -> Described:
    """Reads config.json as timm does.

    Raises:
      InputError: a field that is not understood, or that asks for another network than those
        here; an unknown architecture.
    """
    whole = dict(Fields(found.config_json, f"{found.path}: config.json").rest())
    if "pretrained_cfg" not in whole:  # the layout of earlier versions: one object for all
        own = {"architecture", "model_args", *_ABOUT}
        inner = {key: value for key, value in whole.items() if key not in own}
        whole = {key: value for key, value in whole.items() if key in own}
        whole["pretrained_cfg"] = inner
    file = Fields(whole, f"{found.path}: config.json")
    name = file.take("architecture", str)
    file.take("num_classes", int)
    pool = file.take("global_pool", str)
    stated = file.section("model_args")
    pretrained = file.section("pretrained_cfg")
    file.ignore(_ABOUT)
    file.close()
    kind, usual = _architecture(file, name)
    said_pool = pretrained.take("global_pool", str)
    fixed = pretrained.take("fixed_input_size", bool, False)
    size, prepared = _preprocessing(pretrained)
    overlay: dict[str, Any] = dict(img_size=list(size)) if fixed else {}
    overlay |= dict(global_pool=said_pool) if said_pool else {}
    arguments = Fields({**usual, **overlay, **stated.rest()}, f"{stated.where} of {name}")
    given = stated.rest()
    read = _bit if kind == "bit" else _vit
    result = dict(read(found, arguments, kind, pool))
    if "embed_dim" not in given and result.get("width") != _width(found):
        # The sizes are not those of the architecture, and so may be its heads.
        result |= dict.fromkeys(("width", "depth", "mlp_dim", "patch_size", "num_heads"))
    return Described(result, prepared)


def _width(found: Recognised) -> int | None:
    embedding = found.tensors.get("patch_embed.proj.weight")
    return None if embedding is None else embedding.shape[0]


def _architecture(file: Fields, name: str | None) -> tuple[str, dict[str, Any]]:
    found = architecture(name) if name else None
    if found is None:
        hint = nearest((name or "")[:80], architectures(), 0.8)
        raise InputError(
            f"{file.where}: architecture {str(name)[:80]!r} is not in the table of timm's "
            f"architectures{hint}; of a plain ViT write vit_base_patch16_224 and its model_args"
        )
    return found


def _preprocessing(config: Fields) -> tuple[tuple[int, int], Recipe]:
    """Image size and preprocessing of `pretrained_cfg`."""
    config.ignore(_PRETRAINED)
    config.only("label_offset", 0)
    stated = config.take("input_size", list)
    sides = stated or [3, 224, 224]
    if len(sides) != 3 or sides[0] != 3:
        raise config.error("input_size", sides, "it must be [3, height, width]")
    size = Fields(dict(input_size=sides[1:]), config.where).size("input_size") or (224, 224)
    share = config.take("crop_pct", float) or 224 / 256
    if share < 0.01:
        raise config.error("crop_pct", share, "it must be from 0.01 on")
    notes = []
    mode = config.only("crop_mode", "center", "squash", "border")
    if mode == "border":
        notes.append("images are cropped here, not padded to a square (crop_mode border)")
    method = config.take("interpolation", str, "bicubic")
    if method not in _METHODS:
        notes.append(f"resampling is bicubic here, not {method[:20]} (interpolation)")
    prepared = Recipe(
        share=share,
        squash=mode == "squash",
        method=method if method in _METHODS else "bicubic",
        floor=True,
        truncate=True,
        size=size if stated else None,
        notes=tuple(notes),
        mean=config.numbers("mean", 3, IMAGENET_MEAN),
        std=config.numbers("std", 3, IMAGENET_STD),
    )
    config.close()
    return size, prepared


def _vit(found: Recognised, config: Fields, kind: str, saved_pool: str | None) -> dict[str, Any]:
    """Fields of a ViT's configuration from the arguments of timm's VisionTransformer."""
    pool = config.only("global_pool", "token", *(() if kind == "distilled" else ("avg", "map")))
    if saved_pool not in (None, pool):
        raise InputError(
            f"{config.where}: global_pool is {pool!r} there and {saved_pool!r} in the file's own "
            "global_pool; write the right one into model_args"
        )
    for name in ("qkv_bias", "proj_bias", "final_norm"):
        config.only(name, True)
    for name in ("scale_attn_norm", "scale_mlp_norm", "pre_norm"):
        config.only(name, False)
    config.only("in_chans", 3)
    config.only("embed_norm_layer", None)
    config.only("block_fn", None)
    config.only("attn_layer", None)
    config.only("embed_layer", None, "ResNetV2", "Sequential")
    class_token = config.take("class_token", bool, True)
    registers = config.take("reg_tokens", int, 0)
    with_prefix = config.take("pool_include_prefix", bool, False) and (class_token or registers)
    if with_prefix and pool != "token":
        raise config.error("pool_include_prefix", True, "only patches are pooled here")
    fc_norm = config.take("fc_norm", bool, pool == "avg")
    if fc_norm and pool == "map":
        raise config.error("fc_norm", True, "it is not supported with global_pool 'map'")
    if fc_norm != has_fc_norm(found):
        where = ("fc_norm", "norm") if fc_norm else ("norm", "fc_norm")
        raise InputError(f"{config.where}: its last norm is {where[0]}, the file has {where[1]}")
    size = config.size("img_size", (224, 224))
    patch = config.size("patch_size")
    rest = [side % each for side, each in zip(size or (), patch or ())]
    if config.take("dynamic_img_pad", bool, False) and any(rest):
        raise config.error("dynamic_img_pad", True, "images are not padded to patches here")
    config.take("dynamic_img_size", bool)
    epsilon = _LAYER_NORMS[config.only("norm_layer", *_LAYER_NORMS)]
    activation = config.take("act_layer", str, "gelu")
    gated = config.only("mlp_layer", None, "SwiGLUPacked") is not None
    if (activation not in _GELU) if not gated else (activation != "silu" or pool == "map"):
        raise config.error("act_layer", activation, "it is not supported, only gelu, gelu_tanh")
    posemb = config.only("pos_embed", "learn", "none", "")
    without = config.take("no_embed_class", bool, False)
    width = config.take("embed_dim", int)
    ratio = config.take("mlp_ratio", float, 4.0)
    hidden = int(width * ratio) if width else 0
    result = dict(
        width=width,
        depth=config.take("depth", int),
        num_heads=config.take("num_heads", int),
        mlp_dim=(hidden // 2 if gated else hidden) or None,
        patch_size=patch,
        image_size=size,
        layer_scale=config.take("init_values", float),
        norm_eps=epsilon,
        gelu=_GELU.get(activation, "erf"),
        head=dict(token="token", avg="gap", map="map")[pool],
        pool_then_norm=fc_norm and pool == "avg",
        posemb=None if posemb == "learn" else "none",
        posemb_class_slot=not without,
        **TORCH_RESNET,
    )
    config.take("qk_norm", bool)
    config.take("num_classes", int)
    config.ignore(_TRAINING)
    config.close()
    return result


def _bit(found: Recognised, config: Fields, kind: str, saved_pool: str | None) -> dict[str, Any]:
    """Fields of a BiT's configuration from the arguments of timm's ResNetV2."""
    del kind
    config.only("global_pool", "avg")
    if saved_pool not in (None, "avg"):
        raise InputError(f"{config.where}: global_pool {saved_pool!r} is not supported, only 'avg'")
    config.only("in_chans", 3)
    config.only("output_stride", 32)
    config.only("stem_type", "fixed")
    config.only("stem_chs", 64)
    config.only("preact", True)
    config.only("bottle_ratio", 0.25)
    config.only("act_layer", "relu")
    for name in ("avg_down", "basic"):
        config.only(name, False)
    size = config.size("img_size")
    config.ignore(("layers", "channels", "width_factor", "num_classes", *_TRAINING))
    config.close()
    return dict(image_size=size, **TORCH_RESNET)

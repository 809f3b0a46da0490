"""Google's .npz: vision_transformer, big_vision, BiT."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import options
from vit_jax.models.config import BiTConfig, ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.description import own_description, sidecar
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.rows import branched, dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import (
    ANY,
    check_expressible,
    named,
    save,
    weight_format,
)


def _dense(ours: str, theirs: str, kernel: str, bias: str) -> Table:
    return dense(ours, theirs, kernel, bias, torch=False)


def _norm(ours: str, theirs: str, axis: str = "d") -> Table:
    return norm(ours, theirs, axis, torch=False)


def _resnet(ours: str) -> Table:
    block, unit = f"{ours}/block{{s}}/unit{{c}}", "block{s}/unit{c}"
    table = {f"{ours}/conv_root/kernel": ("conv_root/kernel", "abxy")}
    table |= _norm(f"{ours}/gn_root", "gn_root", "y")
    for name in ("1", "2", "3", "_proj"):
        table[f"{block}/conv{name}/kernel"] = (f"{unit}/conv{name}/kernel", "abxy")
        table |= _norm(f"{block}/gn{name}", f"{unit}/gn{name}", "y")
    return table


# Names of vision_transformer; those of big_vision are renamed. Rows for parts that Google's
# code lacks (registers, LayerScale, ...) allow any ViT to be written as .npz.
_BLOCK = "Transformer/encoderblock_{l}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"
_MAP = "MAPHead_0"
_BLOCKS: Table = {
    **_norm("blocks/norm1", f"{_BLOCK}/LayerNorm_0"),
    **_dense("blocks/attention/qkv", f"{_ATTENTION}/{{t}}", "dhk", "hk"),
    "blocks/attention/query_value/bias": (f"{_ATTENTION}/{{j}}/bias", "hk"),
    **_norm("blocks/attention/query_norm", f"{_ATTENTION}/query_ln", "k"),
    **_norm("blocks/attention/key_norm", f"{_ATTENTION}/key_ln", "k"),
    **_norm("blocks/attention/norm", f"{_ATTENTION}/out_ln"),
    **_dense("blocks/attention/out", f"{_ATTENTION}/out", "hkd", "d"),
    "blocks/scale1": (f"{_BLOCK}/LayerScale_1/scale", "d"),
    **_norm("blocks/norm2", f"{_BLOCK}/LayerNorm_2"),
    **_dense("blocks/mlp/fc1", f"{_BLOCK}/MlpBlock_3/Dense_0", "dm", "m"),
    **_dense("blocks/mlp/gated", f"{_BLOCK}/MlpBlock_3/Gated_0", "dgm", "gm"),
    **_norm("blocks/mlp/norm", f"{_BLOCK}/MlpBlock_3/LayerNorm_0", "m"),
    **_dense("blocks/mlp/fc2", f"{_BLOCK}/MlpBlock_3/Dense_1", "md", "d"),
    "blocks/scale2": (f"{_BLOCK}/LayerScale_3/scale", "d"),
}
_BIAS = "PositionBias_0"
GOOGLE: Table = {
    **_dense("embedding", "embedding", "pqid", "d"),
    "embedding/palette": ("embedding/palette", "Ci"),
    "embedding/table": ("embedding/table", "Cd"),
    "embedding/start": ("embedding/start", "d"),
    "color_head/kernel": ("color_head/kernel", "dC"),
    "cls": ("cls", "11d"),
    "dist": ("dist", "11d"),
    "registers": ("registers", "1rd"),
    "posemb/embedding": ("Transformer/posembed_input/pos_embedding", "1nd"),
    **_norm("patch_norm", "patch_norm"),
    **_norm("norm_pre", "Transformer/norm_pre"),
    "position_bias/table": (f"Transformer/{_BIAS}/table", "wh"),
    **_dense("position_bias/fc1", f"Transformer/{_BIAS}/Dense_0", "cv", "v"),
    **_dense("position_bias/fc2", f"Transformer/{_BIAS}/Dense_1", "vh", "h"),
    "blocks/position_bias/table": (f"{_BLOCK}/{_BIAS}/table", "wh"),
    **_dense("blocks/position_bias/fc1", f"{_BLOCK}/{_BIAS}/Dense_0", "cv", "v"),
    **_dense("blocks/position_bias/fc2", f"{_BLOCK}/{_BIAS}/Dense_1", "vh", "h"),
    "blocks/rotary/frequencies": (f"{_BLOCK}/rotary/frequencies", "chs"),
    **_BLOCKS,
    **branched(_BLOCKS, _BLOCK, f"{_BLOCK}/Branch_{{i}}"),
    **_norm("norm", "Transformer/encoder_norm"),
    "map_head/probe": (f"{_MAP}/probe", "11d"),
    **_dense("map_head/query", f"{_MAP}/MultiHeadDotProductAttention_0/query", "dHK", "HK"),
    **_dense("map_head/key_value", f"{_MAP}/MultiHeadDotProductAttention_0/{{u}}", "dHK", "HK"),
    **_dense("map_head/out", f"{_MAP}/MultiHeadDotProductAttention_0/out", "HKd", "d"),
    **_norm("map_head/norm", f"{_MAP}/LayerNorm_0"),
    **_dense("map_head/mlp/fc1", f"{_MAP}/MlpBlock_0/Dense_0", "dM", "M"),
    **_dense("map_head/mlp/fc2", f"{_MAP}/MlpBlock_0/Dense_1", "Md", "d"),
    "projection/kernel": ("projection/kernel", "fe"),
    **_dense("pre_logits", "pre_logits", "fe", "e"),
    **_dense("head", "head", "zo", "o"),
    **_dense("head_dist", "head_dist", "do", "o"),
    **_resnet("stem"),
    **_resnet("resnet"),
}

# The published BiT files: pre-activation, dumped from TensorFlow.
_UNIT = "resnet/block{s}/unit{cc}"
GOOGLE_BIT: Table = {
    "resnet/conv_root/kernel": ("resnet/root_block/standardized_conv2d/kernel", "abxy"),
    "resnet/norm/scale": ("resnet/group_norm/gamma", "y"),
    "resnet/norm/bias": ("resnet/group_norm/beta", "y"),
    "head/kernel": ("resnet/head/conv2d/kernel", "11zo"),
    "head/bias": ("resnet/head/conv2d/bias", "o"),
    "resnet/block{s}/unit{c}/conv_proj/kernel": (
        f"{_UNIT}/a/proj/standardized_conv2d/kernel",
        "abxy",
    ),
}
for _i, _part in enumerate("abc", 1):
    _ours, _theirs = f"resnet/block{{s}}/unit{{c}}/gn{_i}", f"{_UNIT}/{_part}/group_norm"
    GOOGLE_BIT[f"{_ours}/scale"] = (f"{_theirs}/gamma", "y")
    GOOGLE_BIT[f"{_ours}/bias"] = (f"{_theirs}/beta", "y")
    GOOGLE_BIT[f"resnet/block{{s}}/unit{{c}}/conv{_i}/kernel"] = (
        f"{_UNIT}/{_part}/standardized_conv2d/kernel",
        "abxy",
    )

_BIG_VISION = r"^(Transformer/encoderblock(?:_\d+)?)"
_GOOGLE_RENAMES = (
    (_BIG_VISION + "/LayerNorm_1/", r"\1/LayerNorm_2/"),
    (_BIG_VISION + "/MultiHeadDotProductAttention_0/", r"\1/MultiHeadDotProductAttention_1/"),
    (_BIG_VISION + "/MlpBlock_0/", r"\1/MlpBlock_3/"),
    (r"^(Transformer/)?pos_embedding$", "Transformer/posembed_input/pos_embedding"),
    (r"^(block\d+)/unit0*(\d+)/", r"\1/unit\2/"),
)
_GOOGLE_PREFIXES = ("", "opt/target/", "params/img/", "params/", "target/", "img/")
_TF = "standardized_conv2d"
# big_vision's names of the published BiT, brought to those of the files.
_BIT_RENAMES = (
    (rf"/{_TF}_\d+/", f"/{_TF}/"),
    (r"^root_block/conv_root/", f"resnet/root_block/{_TF}/"),
    (r"^norm-pre-head/", "resnet/group_norm/"),
    (r"^(block\d+/unit\d+)/conv_proj/", rf"resnet/\1/a/proj/{_TF}/"),
    *((rf"^(block\d+/unit\d+)/conv{i}/", rf"resnet/\1/{p}/{_TF}/") for i, p in enumerate("abc", 1)),
    *(
        (rf"^(block\d+/unit\d+)/gn{i}/", rf"resnet/\1/{p}/group_norm/")
        for i, p in enumerate("abc", 1)
    ),
    (r"/group_norm/scale$", "/group_norm/gamma"),
    (r"/group_norm/bias$", "/group_norm/beta"),
    (r"^head/", "resnet/head/conv2d/"),
)


def _unscanned(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Splits big_vision's scanned blocks (leading layer axis) into one tensor per layer."""
    before, scanned, after = name.partition("Transformer/encoderblock/")
    if not scanned:
        return [(name, array)]
    return [(f"{before}Transformer/encoderblock_{i}/{after}", a) for i, a in enumerate(array)]


def _hints(found: Recognised) -> dict[str, Any]:
    return dict(gelu="tanh", norm_eps=1e-6)


def _recipe(found: Recognised) -> Recipe:
    return Recipe(antialias=False)


def _vit_recipe(found: Recognised) -> Recipe:
    """Resizing for files of vision_transformer, a crop for big_vision (told by their names)."""
    if any("LayerNorm_2" in name for name in found.original.values()):
        return _recipe(found)
    return Recipe(7 / 8, squash=False)


FAMILIES.add(
    "Google ViT",
    Family(
        "embedding/kernel",
        GOOGLE,
        _hints,
        _vit_recipe,
        _GOOGLE_PREFIXES,
        _GOOGLE_RENAMES,
        aside=r"mask_token|aside/.*",
        unpack=_unscanned,
    ),
)
FAMILIES.add(
    "vit_jax pixels",  # in the same style; Google has no such model
    Family("embedding/palette", GOOGLE, _hints, _recipe),
)
FAMILIES.add(
    "Google BiT",
    Family(
        f"resnet/root_block/{_TF}/kernel",
        GOOGLE_BIT,
        _hints,
        _recipe,
        _GOOGLE_PREFIXES,
        _BIT_RENAMES,
    ),
)
FAMILIES.add(
    "Google ResNet",
    Family("gn_root/scale", GOOGLE, _hints, _recipe, _GOOGLE_PREFIXES, _GOOGLE_RENAMES),
)

# big_vision counts the sub-layers of a block by their type.
_TO_BIG_VISION = (
    (r"^(Transformer/encoderblock_\d+)/LayerNorm_2/", r"\1/LayerNorm_1/"),
    (
        r"^(Transformer/encoderblock_\d+)/MultiHeadDotProductAttention_1/",
        r"\1/MultiHeadDotProductAttention_0/",
    ),
    (r"^(Transformer/encoderblock_\d+)/MlpBlock_3/", r"\1/MlpBlock_0/"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embedding"),
)


# Options that the JSON beside the file holds: all of the models here, not those of others.
_TOLD = dict.fromkeys(
    (field.name for kind in (ViTConfig, BiTConfig) for field in dataclasses.fields(kind)), ANY
)


@weight_format("google", ".npz")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes the names of vision_transformer, or of big_vision if the model needs them.

    The JSON beside the file holds all options of the model, so that it can be any.
    """
    config = weights.config
    check_expressible("the .npz format", config, _TOLD)
    if isinstance(config, BiTConfig):
        tensors = named(weights, "Google BiT" if config.preact else "Google ResNet")
    else:
        # vision_transformer has no MAP head and no class token without a position.
        family = "vit_jax pixels" if config.palette else "Google ViT"
        big_vision = config.head == "map" or (config.has_class_token and not config.posemb_slots)
        tensors = named(weights, family, _TO_BIG_VISION if big_vision else ())
    files = {sidecar(path): own_description(weights)}
    for name, array in weights.aside.items():
        tensors[name if name == "mask_token" else f"aside/{name}"] = array
    return [*save(path, tensors, files), *_beyond_google(config)]


# Parts of the network that Google's code lacks, with the value that it has.
_NETWORK = {
    name: options.defaults(ViTConfig)[name]
    for name in (
        *("block", "norm", "patch_norm", "norm_pre", "attention_norm", "mlp_norm", "final_norm"),
        *("qkv_bias", "out_bias", "mlp_bias", "patch_bias", "rotary", "position_bias"),
        *(
            "classifier_bias",
            "palette",
            "color_head",
            "pool_prefix",
            "map_heads",
            "map_mlp_dim",
            "projection",
        ),
    )
}


def _beyond_google(config: ModelConfig) -> list[str]:
    """Lines on parts of the model that Google's code lacks or computes differently."""
    if not isinstance(config, ViTConfig):
        return []
    features = dict(
        registers=config.registers,
        LayerScale=config.layer_scale is not None,
        distillation=config.distillation != "none",
        swiglu=config.mlp == "swiglu",
        qk_norm=config.qk_norm,
        pool_then_norm=config.pool_then_norm,
        token_gap=config.head == "token_gap",
        posemb_where=config.posemb_where != "stem",
        posemb=config.posemb not in ("learned", "sincos2d", "none"),
        attention_kind=config.attention_kind != "full",
        **{name: getattr(config, name) != usual for name, usual in _NETWORK.items()},
    )
    lines = [f"vision_transformer has no {name}" for name, used in features.items() if used]
    if config.gelu != "tanh":
        lines.append(
            "vision_transformer computes GELU by tanh, these weights were trained with "
            + config.gelu
        )
    return lines

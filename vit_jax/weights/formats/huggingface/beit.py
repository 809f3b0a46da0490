"""BEiT (2106.08254), BEiT v2 and data2vec's image models in transformers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.huggingface.config import agrees, close, network, opened
from vit_jax.weights.formats.huggingface.directory import (
    TARGETS,
    Directory,
    Target,
    below,
    check,
    common,
)
from vit_jax.weights.formats.huggingface.processor import recipe
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, named

_LAYER = "encoder.layer.{l}"
_ATTENTION = f"{_LAYER}.attention.attention"
_BIAS = "relative_position_bias.relative_position_bias_table"
TABLE: Table = {
    **dense("embedding", "embeddings.patch_embeddings.projection", "dipq", "d"),
    "cls": ("embeddings.cls_token", "11d"),
    "posemb/embedding": ("embeddings.position_embeddings", "1nd"),
    "position_bias/table": (f"encoder.{_BIAS}", "wh"),
    "blocks/position_bias/table": (f"{_ATTENTION}.{_BIAS}", "wh"),
    **norm("blocks/norm1", f"{_LAYER}.layernorm_before"),
    "blocks/attention/qkv/kernel": (f"{_ATTENTION}.{{t}}.weight", "(hk)d"),
    "blocks/attention/query_value/bias": (f"{_ATTENTION}.{{j}}.bias", "(hk)"),
    **dense("blocks/attention/out", f"{_LAYER}.attention.output.dense", "d(hk)", "d"),
    "blocks/scale1": (f"{_LAYER}.lambda_1", "d"),
    **norm("blocks/norm2", f"{_LAYER}.layernorm_after"),
    **dense("blocks/mlp/fc1", f"{_LAYER}.intermediate.dense", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.output.dense", "dm", "d"),
    "blocks/scale2": (f"{_LAYER}.lambda_2", "d"),
    **norm("norm", "layernorm"),
    **dense("head", "classifier", "oz", "o"),
}
# transformers 5 names its modules otherwise than its files.
RENAMES = (
    (
        r"^layers\.(\d+)\.relative_position_bias\.",
        r"encoder.layer.\1.attention.attention.relative_position_bias.",
    ),
    (r"^shared_position_bias\.", "encoder.relative_position_bias."),
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
MLP_RENAMES = (
    (r"^(encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
)


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration; see `config.hints`."""
    config = opened(found)
    config.only("model_type", "beit", "data2vec-vision")
    result = network(config, found, dict(num_heads=12, gelu="erf", norm_eps=1e-12))
    result["gelu"] = result["gelu"] or "erf"
    result["layer_scale"] = config.take("layer_scale_init_value", float)
    # Training by masked patches has the last norm before a head for each patch.
    masked = any(name.startswith("lm_head.") for name in found.other)
    last_norm = found.original.get("layernorm.weight", "")
    if last_norm and not masked:
        mean = "pooler." in last_norm
        agrees(config, "use_mean_pooling", mean)
    else:
        mean = config.take("use_mean_pooling", bool, True)
    result["head"] = "gap" if mean else "token"
    result["pool_then_norm"] = mean and not masked and bool(last_norm)
    if masked and mean:
        result["notes"] = ("features are the mean of the tokens that lm_head sees",)
    tables = [f"encoder.layer.0.attention.attention.{_BIAS}", f"encoder.{_BIAS}"]
    for kind, tensor in zip(("", "shared_"), tables):
        agrees(config, f"use_{kind}relative_position_bias", tensor in found.tensors)
    absolute = "embeddings.position_embeddings" in found.tensors
    agrees(config, "use_absolute_position_embeddings", absolute)
    if not absolute:
        result["posemb"] = "none"
    elif not any(name in found.tensors for name in tables):
        result["resample"] = "bicubic"
    table = next((found.tensors[name] for name in tables if name in found.tensors), None)
    if table is not None:
        result["image_size"] = _image_size(found, result["image_size"], len(table) - 3)
    config.ignore(("vocab_size", "auxiliary_channels", "auxiliary_concat_input", "pool_scales"))
    config.ignore(("auxiliary_loss_weight", "auxiliary_num_convs", "use_auxiliary_head"))
    config.ignore(("semantic_loss_ignore_index", "add_fpn"))
    close(config)
    return result


def _image_size(found: Recognised, stated: tuple[int, int] | None, offsets: int) -> tuple[int, int]:
    """The size of images, which has to be square: transformers mixes rows and columns up."""
    height, width = found.tensors["embeddings.patch_embeddings.projection.weight"].shape[2:]
    side = (math.isqrt(max(0, offsets)) + 1) // 2
    grid = (side, side) if stated is None else (stated[0] // height, stated[1] // width)
    if grid[0] != grid[1]:
        raise InputError(
            f"{found.path}: its position biases are of {grid[0]} x {grid[1]} patches; those of "
            "transformers' BEiT are read for square grids only"
        )
    return stated or (side * height, side * width)


def _recipe(found: Recognised) -> Recipe:
    return recipe(found, Recipe(method="bicubic"))


FAMILIES.add(
    "Hugging Face BEiT",
    Family(
        ("encoder.layer.0.lambda_1", "encoder.layer.0.layernorm_before.weight"),
        TABLE,
        _hints,
        _recipe,
        ("beit.", "data2vec_vision."),
        (*RENAMES, *MLP_RENAMES, (r"^pooler\.layernorm\.", "layernorm.")),
        aside=r"embeddings\.mask_token",
        other=r"lm_head\..*|.*\.relative_position_index",
        resample="bilinear",
    ),
)


def _build(weights: Weights) -> Directory:
    config = weights.config
    assert isinstance(config, ViTConfig)
    mean = config.head == "gap"
    kinds = {"table": (True, False), "table(shared=False)": (True, False), "none": (False, False)}
    kinds["table(shared=True)"] = (False, True)
    if config.position_bias not in kinds:
        raise InputError(
            f"transformers' BEiT has no model with position_bias={config.position_bias!r}; "
            "write .npz instead"
        )
    check(
        "transformers' BEiT",
        config,
        square=config.position_bias != "none",
        posemb="learned" if config.posemb == "learned" else "none",
        position_bias=ANY,
        layer_scale=1.0 if config.layer_scale is None else ANY,
        qkv_bias="no_key",
        head="gap" if mean else "token",
        class_token=True if mean else ANY,
        final_norm=ANY if mean and not config.num_classes else True,
        pool_then_norm=mean and config.final_norm,
    )
    own, shared = kinds[config.position_bias]
    document = common(config) | dict(
        model_type="beit",
        use_mean_pooling=mean,
        use_absolute_position_embeddings=config.posemb == "learned",
        use_relative_position_bias=own,
        use_shared_relative_position_bias=shared,
        use_mask_token="mask_token" in weights.aside,
        layer_scale_init_value=config.layer_scale,
        drop_path_rate=0.0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    renames = [(r"^layernorm\.", "pooler.layernorm.")] if mean else []
    tensors = named(weights, "Hugging Face BEiT", renames)
    if "mask_token" in weights.aside:
        mask = weights.aside["mask_token"].reshape(1, 1, config.width)
        tensors["embeddings.mask_token"] = mask.astype(np.float32)
    if config.num_classes:
        tensors = below("beit.", tensors, "classifier.")
        return Directory("BeitForImageClassification", document, tensors)
    if not config.final_norm:  # the class of BEiT has a norm after the mean in any case
        document["model_type"] = "data2vec-vision"
        return Directory("Data2VecVisionModel", document, tensors)
    return Directory("BeitModel", document, tensors)


TARGETS.append(
    Target(
        lambda config: (
            isinstance(config, ViTConfig)
            and config.rotary == "none"
            and (config.position_bias != "none" or config.qkv_bias == "no_key")
        ),
        _build,
    )
)

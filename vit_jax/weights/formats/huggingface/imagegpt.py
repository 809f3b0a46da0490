"""ImageGPT (iGPT, Chen et al. 2020) in transformers.

The embedding of the start token is the last row of `wte`; the palette is not among the tensors,
but in preprocessor_config.json, as `clusters`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.huggingface.config import close, opened
from vit_jax.weights.formats.huggingface.directory import (
    ACTIVATIONS,
    TARGETS,
    Directory,
    Target,
    below,
)
from vit_jax.weights.formats.rows import GELU, dense
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, check_expressible, named

_LAYER = "h.{l}"
TABLE: Table = {
    "embedding/palette": ("clusters", "Ci"),
    "embedding/table": ("wte.colors", "Cd"),
    "embedding/start": ("wte.start", "d"),
    "posemb/embedding": ("wpe.weight", "nd"),
    "blocks/norm1/scale": (f"{_LAYER}.ln_1.weight", "d"),
    **dense("blocks/attention/qkv", f"{_LAYER}.attn.c_attn", "d(thk)", "(thk)"),
    **dense("blocks/attention/out", f"{_LAYER}.attn.c_proj", "(hk)d", "d"),
    "blocks/norm2/scale": (f"{_LAYER}.ln_2.weight", "d"),
    **dense("blocks/mlp/fc1", f"{_LAYER}.mlp.c_fc", "dm", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.mlp.c_proj", "md", "d"),
    "norm/scale": ("ln_f.weight", "d"),
    "color_head/kernel": ("lm_head.weight", "Cd"),
    "head/kernel": ("score.weight", "oz"),
}
# The causal mask, which earlier versions of transformers stored with the weights.
_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_BIASES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def _complete(found: Recognised) -> None:
    """Takes out the causal mask, splits off the start token, adds the palette."""
    for name in [name for name in found.tensors if _MASK.fullmatch(name)]:
        del found.tensors[name]
        found.constants.append(found.original.pop(name))
    table, original = found.tensors.pop("wte.weight"), found.original.pop("wte.weight")
    if table.ndim != 2 or len(table) < 3:
        raise InputError(
            f"{found.path}: {original} has the shape {table.shape}; it must have a row for each "
            "of two colours or more, and one for the start token"
        )
    found.tensors.update({"wte.colors": table[:-1], "wte.start": table[-1]})
    found.tensors["clusters"] = _clusters(found, len(table) - 1)
    found.original.update({"wte.colors": original, "wte.start": original})
    found.original["clusters"] = "clusters of preprocessor_config.json"


def _clusters(found: Recognised, colors: int) -> np.ndarray:
    """The palette (K, 3), in the units of normalised images."""
    document = found.configs.get("preprocessor_config.json") or {}
    given = document.get("clusters")
    where = f"{found.path}: preprocessor_config.json"
    if given is None:
        raise InputError(
            f"{where} has no clusters, the {colors} colours of the model; put the file of "
            "openai/imagegpt-small beside the weights"
        )
    try:
        palette = np.array(given, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: clusters is no table of numbers") from error
    if palette.shape != (colors, 3):
        raise InputError(
            f"{where}: clusters has the shape {palette.shape}, the tensors have {colors} colours: "
            f"it must be ({colors}, 3); one of both is of another model"
        )
    return palette


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration; see `config.hints`."""
    config = opened(found)
    config.only("model_type", "imagegpt")
    activation = config.only("activation_function", "quick_gelu", *GELU)
    width = config.take("n_embd", int)
    hidden = config.take("n_inner", int)
    result: dict[str, Any] = dict(
        width=width,
        depth=config.take("n_layer", int),
        num_heads=config.take("n_head", int, 8 if found.config_json else None),
        mlp_dim=hidden or (width and 4 * width),
        norm_eps=config.take("layer_norm_epsilon", float, 1e-5),
        gelu=GELU[activation],
        attention_kind="causal",
        head="gap",
    )
    for name, tensor in (("vocab_size", "wte.colors"), ("n_positions", "wpe.weight")):
        rows = len(found.tensors[tensor]) + (name == "vocab_size")
        if config.take(name, int, rows) != rows:
            raise config.error(name, found.config_json[name], f"the tensors have {rows} rows")
    config.only("scale_attn_weights", True)
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        config.only(name, False)
    config.only("add_cross_attention", False)
    config.only("tie_word_embeddings", False)
    config.ignore(("attn_pdrop", "embd_pdrop", "resid_pdrop", "n_ctx"))  # of training
    close(config)
    return result


_PROCESSORS = ("ImageGPTImageProcessor", "ImageGPTImageProcessorPil", "ImageGPTFeatureExtractor")


def _recipe(found: Recognised) -> Recipe:
    """The preprocessing of ImageGPTImageProcessor: a square, without a crop, from -1 to 1."""
    document = found.configs.get("preprocessor_config.json") or {}
    config = Fields(document, f"{found.path}: preprocessor_config.json")
    for name in ("image_processor_type", "feature_extractor_type"):
        config.only(name, *_PROCESSORS)
    # A number, the shorter side (of the first version), or both sides.
    size = config.rest().get("size")
    inner = config.section("size") if isinstance(size, Mapping) else config
    if inner is config:
        sides = config.size("size")
    else:
        height, width = inner.size("height"), inner.size("width")
        sides = (height[0], width[0]) if height and width else None
        inner.close()
    for name in ("do_resize", "do_normalize", "do_color_quantize", "do_rescale"):
        config.only(name, True)
    config.only("do_center_crop", False)
    config.only("resample", 2)
    for name in ("image_mean", "image_std"):
        if config.numbers(name, 3, (0.5, 0.5, 0.5)) != (0.5, 0.5, 0.5):
            raise config.error(name, document[name], "it must be 0.5: pixels are from -1 to 1")
    config.ignore(("clusters", "rescale_factor", "processor_class", "do_convert_rgb"))
    config.ignore(("data_format", "input_data_format", "return_tensors", "device"))
    config.ignore(("crop_size", "disable_grouping", "default_to_square", "do_pad", "pad_size"))
    config.close()
    return Recipe(size=sides)


FAMILIES.add(
    "Hugging Face ImageGPT",
    Family(
        ("wte.weight", "wpe.weight", "h.0.ln_1.weight"),
        TABLE,
        _hints,
        _recipe,
        ("transformer.",),
        complete=_complete,
        resample="bicubic",
    ),
)


def _suits(config: ModelConfig) -> bool:
    return isinstance(config, ViTConfig) and bool(config.palette)


def _build(weights: Weights) -> Directory:
    config = weights.config
    assert isinstance(config, ViTConfig)
    sizes = ("width", "depth", "mlp_dim", "num_heads", "gelu", "norm_eps", "image_size")
    check_expressible(
        "transformers' ImageGPT",
        config,
        dict.fromkeys((*sizes, "num_classes", "palette", "color_head", "mlp_bias"), ANY)
        | dict.fromkeys(("qkv_bias", "out_bias"), ANY)
        | dict(
            patch_size=(1, 1),
            attention_kind="causal",
            head="gap",
            norm="rms",
            patch_bias=False,
            classifier_bias=False,
        ),
    )
    height, width = config.image_size
    if height != width or config.qkv_bias == "no_key":
        raise InputError(
            "transformers' ImageGPT has square images, and biases of queries, keys and values or "
            "of none; write .npz instead"
        )
    tensors = named(weights, "Hugging Face ImageGPT")
    palette = tensors.pop("clusters")
    start = tensors.pop("wte.start")
    tensors["wte.weight"] = np.concatenate([tensors.pop("wte.colors"), start[None]])
    for layer in range(config.depth):
        for part in _BIASES:
            kernel = tensors[f"h.{layer}.{part}.weight"]
            tensors.setdefault(f"h.{layer}.{part}.bias", np.zeros(kernel.shape[1:], np.float32))
    lines = [
        f"transformers leaves the start token to the caller: input_ids are {config.palette}, then "
        "the pixels without the last"
    ]
    kind = "ImageGPTForCausalImageModeling" if config.color_head else "ImageGPTModel"
    if config.num_classes:
        kind = "ImageGPTForImageClassification"
        if config.color_head:
            tensors.pop("lm_head.weight")
            lines.append(f"{kind} predicts no colours: color_head is left out")
    prefix = "" if kind == "ImageGPTModel" else "transformer."
    document = dict(
        model_type="imagegpt",
        n_embd=config.width,
        n_layer=config.depth,
        n_head=config.num_heads,
        n_inner=config.mlp_dim,
        n_positions=config.num_patches,
        vocab_size=config.palette + 1,
        activation_function=ACTIVATIONS[config.gelu],
        layer_norm_epsilon=config.norm_eps,
        tie_word_embeddings=False,
    )
    prepared = dict(
        image_processor_type="ImageGPTImageProcessor",
        size=dict(height=height, width=width),
        clusters=palette.tolist(),
        do_color_quantize=True,
        do_normalize=True,
        do_resize=True,
        resample=2,
    )
    own = below(prefix, tensors, "lm_head.", "score.")
    return Directory(kind, document, own, tuple(lines), prepared)


TARGETS.insert(0, Target(_suits, _build))  # before those that go by the norm

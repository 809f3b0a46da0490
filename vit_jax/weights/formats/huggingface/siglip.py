"""The image tower of SigLIP (2303.15343) and SigLIP 2 (2502.14786) in transformers.

SigLIP 2 at a fixed size has the names and classes of SigLIP; for images of any size (NaFlex) it has
its own.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.formats.huggingface.clip import BLOCKS, OTHER, WORDS
from vit_jax.weights.formats.huggingface.config import agrees, close, image_tower, network
from vit_jax.weights.formats.huggingface.directory import (
    TARGETS,
    Directory,
    Target,
    below,
    check,
    common,
)
from vit_jax.weights.formats.huggingface.processor import naflex_recipe, recipe
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, Tensors, named

TABLE: Table = {
    **BLOCKS,
    **dense("embedding", "embeddings.patch_embedding", "dipq", "d"),
    "map_head/probe": ("head.probe", "11d"),
    # Queries, keys and values are packed in the file: see `_unpack`.
    **dense("map_head/query", "head.attention.query", "(HK)d", "(HK)"),
    **dense("map_head/key_value", "head.attention.key_value", "(uHK)d", "(uHK)"),
    **dense("map_head/out", "head.attention.out_proj", "d(HK)", "d"),
    **norm("map_head/norm", "head.layernorm"),
    **dense("map_head/mlp/fc1", "head.mlp.fc1", "Md", "M"),
    **dense("map_head/mlp/fc2", "head.mlp.fc2", "dM", "d"),
}
_PACKED = "head.attention.in_proj_"
_EMBEDDING = "embeddings.patch_embedding.weight"
_ANY_SIZE = ("siglip2", "siglip2_vision_model")  # model types


def _unpack(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Parts the attention pooling's queries from its keys and values.

    NaFlex's patch embedding, a matrix (D, p p 3), becomes a convolution's kernel (D, 3, p, p).
    """
    if name == _EMBEDDING and array.ndim == 2 and array.shape[1] % 3 == 0:
        side = math.isqrt(array.shape[1] // 3)
        if side * side * 3 == array.shape[1]:
            patches = array.reshape(len(array), side, side, 3)
            return [(name, np.ascontiguousarray(patches.transpose(0, 3, 1, 2)))]
    if not name.startswith(_PACKED):
        return [(name, array)]
    kind, width = name.removeprefix(_PACKED), array.shape[0] // 3
    return [
        (f"head.attention.query.{kind}", array[:width]),
        (f"head.attention.key_value.{kind}", array[width:]),
    ]


def _pack(tensors: Tensors) -> Tensors:
    """Undoes `_unpack`."""
    tensors = dict(tensors)
    for kind in ("weight", "bias"):
        parts = [tensors.pop(f"head.attention.{part}.{kind}") for part in ("query", "key_value")]
        tensors[f"{_PACKED}{kind}"] = np.concatenate(parts)
    return tensors


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration; see `config.hints`."""
    naflex = _is_naflex(found)
    kinds = _ANY_SIZE if naflex else ("siglip", "siglip_vision_model")
    config = image_tower(found, *kinds, aside=())
    result = network(config, found, dict(num_heads=12, gelu="tanh", norm_eps=1e-6))
    result["gelu"] = result["gelu"] or "tanh"
    agrees(config, "vision_use_head", "head.probe" in {*found.tensors, *found.aside})
    config.ignore(("projection_dim",))
    if naflex:
        side = math.isqrt(config.take("num_patches", int, 256))
        patch = (result["patch_size"] or (16, 16))[0]
        result |= dict(image_size=(side * patch, side * patch), naflex=_recipe(found).naflex[0])
    close(config)
    result["head"] = "gap" if "classifier.weight" in found.tensors else None
    return result


def _is_naflex(found: Recognised) -> bool:
    """Whether the file is a SigLIP 2 for images of any size."""
    return found.config_json.get("model_type") in _ANY_SIZE


def _recipe(found: Recognised) -> Recipe:
    if _is_naflex(found):
        return naflex_recipe(found, found.tensors[_EMBEDDING].shape[-1])
    return recipe(found, Recipe(method="bicubic"))


_PREFIXES = ("vision_model.",)
_SIGNATURE = ("post_layernorm.weight", "embeddings.patch_embedding.bias")
# The classifier sees the mean of the tokens, not the attention pooling.
FAMILIES.add(
    "Hugging Face SigLIP classifier",
    Family(
        (*_SIGNATURE, "classifier.weight"),
        TABLE,
        _hints,
        _recipe,
        _PREFIXES,
        aside=r"head\..*",
        other=OTHER,
        unpack=_unpack,
        words=WORDS,
        resample="bicubic",
    ),
)
FAMILIES.add(
    "Hugging Face SigLIP",
    Family(
        _SIGNATURE,
        TABLE,
        _hints,
        _recipe,
        _PREFIXES,
        other=OTHER,
        unpack=_unpack,
        words=WORDS,
        resample="bicubic",
    ),
)


def _suits(config: ModelConfig) -> bool:
    """Whether a model pools by attention, or is a plain one with SigLIP's GELU and no class token.

    The I-JEPA of transformers, which is otherwise the same network, has the other GELU.
    """
    if not isinstance(config, ViTConfig) or config.has_class_token:
        return False
    square = len({*config.image_size}) == len({*config.patch_size}) == 1
    plain = config.head == "gap" and config.layer_scale is None and square
    return config.head == "map" or plain and config.gelu == "tanh"


def _build(weights: Weights) -> Directory:
    config = weights.config
    assert isinstance(config, ViTConfig)
    if config.naflex:
        return _build_naflex(weights, config)
    pools = config.head == "map" and not config.num_classes
    check("transformers' SigLIP", config, square=True, head="map" if pools else "gap")
    tower = common(config) | dict(model_type="siglip_vision_model")
    if not config.num_classes:
        tensors = named(weights, "Hugging Face SigLIP")
        tower["vision_use_head"] = pools
        return Directory("SiglipVisionModel", tower, _pack(tensors) if pools else tensors)
    tensors = named(weights, "Hugging Face SigLIP classifier")
    unused = {name: array for name, array in weights.aside.items() if name.startswith("head.")}
    tower["vision_use_head"] = bool(unused)
    tensors = below("vision_model.", tensors | unused, "classifier.")
    document = dict(model_type="siglip", vision_config=tower)
    return Directory("SiglipForImageClassification", document, tensors)


def _build_naflex(weights: Weights, config: ViTConfig) -> Directory:
    """A directory of SigLIP 2 for images of any size."""
    pools = config.head == "map" and not config.num_classes
    has = dict(head="map" if pools else "gap", naflex=ANY, naflex_resize="bilinear")
    check("transformers' SigLIP 2", config, square=True, **has)
    tower = common(config) | dict(model_type=_ANY_SIZE[1], num_patches=math.prod(config.grid))
    del tower["image_size"]
    family = "Hugging Face SigLIP" + (" classifier" if config.num_classes else "")
    tensors = named(weights, family)
    kernel = tensors[_EMBEDDING].transpose(0, 2, 3, 1)
    tensors[_EMBEDDING] = np.ascontiguousarray(kernel.reshape(len(kernel), -1))
    if not config.num_classes:
        tower["vision_use_head"] = pools
        return Directory("Siglip2VisionModel", tower, _pack(tensors) if pools else tensors)
    unused = {name: array for name, array in weights.aside.items() if name.startswith("head.")}
    tower["vision_use_head"] = bool(unused)
    tensors = below("vision_model.", tensors | unused, "classifier.")
    document = dict(model_type=_ANY_SIZE[0], vision_config=tower)
    return Directory("Siglip2ForImageClassification", document, tensors)


TARGETS.append(Target(_suits, _build))

"""Writes directories of transformers: each family says which models it can hold, and how."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Recognised
from vit_jax.weights.formats.huggingface.processor import (
    naflex_recipe,
    recipe,
    to_huggingface,
)
from vit_jax.weights.formats.rows import SIZES
from vit_jax.weights.preprocessing import Recipe, other_preprocessing
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, Tensors, check_expressible, save, side_length, weight_format

ACTIVATIONS = {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
# Options that config.json holds for every ViT.
VIT = SIZES | dict.fromkeys(
    ("width", "depth", "mlp_dim", "num_heads", "patch_size", "gelu", "norm_eps"), ANY
)


@dataclasses.dataclass(frozen=True)
class Directory:
    """The content of a directory of transformers.

    Attributes:
      architecture: name of the class that `from_pretrained` makes.
      document: config.json, without what all models have in common.
      tensors: tensors by name.
      lines: what transformers computes differently.
      prepared: preprocessor_config.json; None: that of the preprocessing of the weights.
    """

    architecture: str
    document: Mapping[str, Any]
    tensors: Tensors
    lines: tuple[str, ...] = ()
    prepared: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """A family of models of transformers.

    Attributes:
      suits: whether a model is nearest to this family; the first that suits is taken.
      build: makes the directory.

    `build` raises InputError if the family lacks the model after all.
    """

    suits: Callable[[ModelConfig], bool]
    build: Callable[[Weights], Directory]


TARGETS: list[Target] = []


@weight_format("huggingface", "")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes a directory that `from_pretrained` reads."""
    config = weights.config
    found = next((target for target in TARGETS if target.suits(config)), None)
    if found is None:
        raise InputError(f"transformers has no {type(config).__name__}; write .npz instead")
    directory = found.build(weights)
    names = weights.labels or [f"LABEL_{i}" for i in range(config.num_classes)]
    document = dict(
        architectures=[directory.architecture],
        dtype="float32",
        id2label={str(i): name for i, name in enumerate(names)},
        label2id={name: i for i, name in enumerate(names)},
        **directory.document,
    )
    if weights.multi_label:
        document["problem_type"] = "multi_label_classification"
    prepared = {
        "preprocessor_config.json": to_huggingface(Recipe.parse(weights.pp), config.image_size)
    }
    described = Recognised("", "", FAMILIES["Hugging Face ViT"], prepared)
    naflex = config.naflex and naflex_recipe(described, config.patch[0])
    theirs = naflex or recipe(described)
    steps = other_preprocessing("transformers", weights.pp, theirs.spec(config.image_size))
    if directory.prepared:
        prepared = {"preprocessor_config.json": dict(directory.prepared)}
    documents = {"config.json": document, **prepared, "vit_jax.json": dict(report=weights.report)}
    files = {path / name: content for name, content in documents.items()}
    lines = save(path / "model.safetensors", directory.tensors, files)
    return [*lines, *directory.lines, *steps]


def check(program: str, config: ModelConfig, square: bool = False, **has: Any) -> None:
    """Refuses a model that has an option which a class of transformers lacks.

    Args:
      program: what to call the class.
      config: configuration of the model.
      square: whether images and patches have to be square.
      **has: as in `check_expressible`, beside the sizes.
    """
    check_expressible(program, config, VIT | has)
    if square and isinstance(config, ViTConfig):
        for name in ("image_size", "patch_size"):
            height, width = getattr(config, name)
            if height != width:
                raise InputError(
                    f"{program} has no model with {name}={(height, width)}, it must be square; "
                    "write .npz instead"
                )


def common(config: ViTConfig, eps: str = "layer_norm_eps") -> dict[str, Any]:
    """The fields of config.json that all ViTs have."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": ACTIVATIONS[config.gelu],
        eps: config.norm_eps,
        "image_size": side_length(config.image_size),
        "patch_size": side_length(config.patch_size),
        "num_channels": 3,
    }


def below(prefix: str, tensors: Mapping[str, np.ndarray], *outside: str) -> Tensors:
    """The tensors with a prefix before their names, except those that begin with one of `outside`.

    Modules of the class for classification, such as `classifier`, are outside of the tower.
    """
    return {
        name if name.startswith(outside) else prefix + name: array
        for name, array in tensors.items()
    }

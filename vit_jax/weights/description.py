"""The JSON document beside a weight file, from which `read` restores the model."""

import hashlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from vit_jax import models, schema
from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.record import Weights


class Description(TypedDict):
    """The document: x.npz.json beside x.npz, or the key "vit_jax" of timm's config.json.

    `model_sha256` shows whether `model` was changed; earlier versions did not write it.
    """

    model: dict[str, Any]
    pp: str
    labels: list[str]
    multi_label: NotRequired[bool]
    report: NotRequired[list[str]]
    model_sha256: NotRequired[str]


def own_description(weights: Weights) -> Description:
    """The document about weights."""
    model = dict(name=weights.name, **weights.options)
    return Description(
        model=model,
        model_sha256=_digest(model),
        pp=weights.pp,
        labels=weights.labels,
        multi_label=weights.multi_label,
        report=weights.report,
    )


def sidecar(path: Path) -> Path:
    """The JSON file beside a weight file."""
    return path.with_name(path.name + ".json")


def find_description(configs: Mapping[str, Any], path: Path) -> tuple[Description, str] | None:
    """The document among the JSON files beside a weight file, checked, and its place.

    Args:
      configs: contents of the JSON files by name; x.npz.json is "sidecar".
      path: the weight file.

    Raises:
      InputError: a key is missing, has another type, or does not describe a model.
    """
    if "sidecar" in configs:
        return _checked(configs["sidecar"], str(sidecar(path)))
    if "vit_jax" in configs.get("config.json", {}):
        where = f"{path.with_name('config.json')}: vit_jax"
        return _checked(configs["config.json"]["vit_jax"], where)
    return None


def described_model(description: Description, where: str) -> ModelConfig:
    """The configuration of the model that a checked document describes.

    Raises:
      InputError: an option is unknown, has another type, or does not fit the others.
    """
    model = description["model"]
    try:
        schema.check(model.get("name"), str, "model.name")
        for name, value in model.items():
            schema.check(value, _KINDS.get(name, Any), f"model.{name}")
        return models.model_config(**model)
    except (ValueError, InputError) as error:
        raise InputError(f"{where}: {error}; restore the file") from error


def _checked(document: Any, where: str) -> tuple[Description, str]:
    from vit_jax.data import parse

    try:
        found: Description = schema.check(document, Description)
    except ValueError as error:
        raise InputError(
            f"{where} does not describe weights ({error}); restore it, or move it elsewhere"
        ) from error
    digest = found.get("model_sha256")
    if digest not in (None, _digest(found["model"])):
        raise InputError(
            f"{where}: model was changed after it was written; restore it, or remove "
            "model_sha256 if the change is meant"
        )
    if digest and "multi_label" not in found:
        raise InputError(f"{where}: multi_label is missing; restore the file")
    config = described_model(found, where)
    if found["labels"] and len(found["labels"]) != config.num_classes:
        raise InputError(
            f"{where}: labels has {len(found['labels'])} names and model.num_classes is "
            f"{config.num_classes}; restore the file"
        )
    try:
        parse(found["pp"])
    except InputError as error:
        raise InputError(f"{where}: pp: {error}") from error
    return found, where


def _digest(model: Mapping[str, Any]) -> str:
    """The SHA-256 of the model's options, independent of their order."""
    return hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest()


# Option -> its type in JSON.
_KINDS = typing.get_type_hints(BiTConfig) | typing.get_type_hints(ViTConfig)
_KINDS |= {name: int | _KINDS[name] for name in ("image_size", "patch_size")}

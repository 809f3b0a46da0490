"""Published files -> a model's name, options, parameters and what else is known, strictly."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.checkpoint.convert import metadata
from vit_jax.checkpoint.convert.families import QKV, Recognised, recognise
from vit_jax.checkpoint.convert.files import read_files
from vit_jax.checkpoint.convert.infer import infer
from vit_jax.checkpoint.convert.layout import Layout, layout_of
from vit_jax.checkpoint.resample import resample_posemb
from vit_jax.errors import InputError
from vit_jax.models.resnet import BiTConfig
from vit_jax.models.vit import ViTConfig

Config = ViTConfig | BiTConfig
POSEMB = "posemb/embedding"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file, read.

    Attributes:
      name: of the nearest model, such as "ViT-B/16".
      options: of `create_model`, which make it the file's.
      params: nested dict of float32 arrays.
      pp: preprocessing of images for evaluation.
      labels: class names by index; [] where unknown.
      family: whose names the file has.
      aside: tensors that no classifier has, by the family's names.
      report: lines that account for every tensor.
    """

    name: str
    options: dict[str, Any]
    params: dict[str, Any]
    pp: str
    labels: list[str]
    family: str
    aside: dict[str, np.ndarray]
    report: list[str]


def read(
    path: str | Path,
    *,
    resample: str = "bilinear_align_corners",
    leave_out: Sequence[str] = (),
    **options: Any,
) -> Published:
    """Reads any published ViT, hybrid or BiT.

    Args:
      path: a file or directory, a URL, or a Hugging Face hub id; see `files.read_files`.
      resample: how the position embedding meets another `image_size`.
      leave_out: patterns of tensor names, as the file has them, to pass over.
      **options: of `create_model`. They tell what the file does not (`num_heads`), or
        ask for a change: another `image_size` resizes the position embedding, another
        `num_classes` starts a new head, `pre_logits=0` drops that layer.

    Raises:
      InputError: no such file, an unknown family, something that has to be given, or
        missing, unexpected and misshapen tensors, which the message lists.
    """
    path = str(path)
    files = read_files(path)
    found = recognise(path, files.tensors, leave_out)
    own = metadata.sidecar(files.configs)
    if own:
        stored = models.model_config(**own["model"])
    else:
        stored = infer(path, found, metadata.hints(path, found, files.configs), options)
    params = load(path, stored, found)
    name, known = models.identify(stored)
    wanted = models.model_config(name, **{**known, **options})
    params, changes = adapt(params, stored, wanted, resample)
    report = [
        f"{path}: {found.family.name}, {name}",
        f"loaded {len(found.tensors)} tensors",
        *changes,
        *(f"left out on request: {name}" for name in found.left_out),
        *(f"kept aside, no part of a classifier: {name}" for name in found.aside),
    ]
    name, options = models.identify(wanted)
    same_classes = stored.num_classes == wanted.num_classes
    labels = own.get("labels") or metadata.labels(files.configs, stored.num_classes)
    same_size = own and stored.image_size == wanted.image_size
    return Published(
        name=name,
        options=options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp=own["pp"] if same_size else _preprocessing(found, files.configs, wanted),
        labels=labels if same_classes else [],
        family=found.family.name,
        aside=found.aside,
        report=report,
    )


def _preprocessing(found: Recognised, configs: Mapping[str, Any], config: Config) -> str:
    return metadata.preprocessing(found, configs, config.image_size)


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter of a model."""
    _, params = models.abstract(functools.partial(models.build_model, config))
    return {
        path: tuple(leaf.shape)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }


def layouts(config: Config, table: Mapping, family: str) -> dict[str, Layout]:
    """Path -> layout of every parameter of a model in a format.

    Raises:
      InputError: the format has no place for some of them.
    """
    found = {
        path: layout_of(path, shape, table) for path, shape in parameter_shapes(config).items()
    }
    homeless = sorted(path for path, layout in found.items() if layout is None)
    if homeless:
        raise InputError(f"the names of {family} have no place for {', '.join(homeless)}")
    return found


def load(path: str, config: Config, found: Recognised) -> dict[str, np.ndarray]:
    """Our parameters by path; every tensor is used, and once.

    Raises:
      InputError: lists what is missing, unexpected or misshapen, with both shapes.
    """
    rows = layouts(config, found.family.table, found.family.name)
    wanted = {name: row.their_shape for row in rows.values() for name, _ in row.tensors(QKV)}
    have = {name: array.shape for name, array in found.tensors.items()}
    problems = [
        *(f"missing: {name} {wanted[name]}" for name in sorted(wanted.keys() - have.keys())),
        *(
            f"unexpected: {found.original[name]} {have[name]}"
            for name in sorted(have.keys() - wanted.keys())
        ),
        *(
            f"misshapen: {found.original[name]} file {have[name]}, model {wanted[name]}"
            for name in sorted(wanted.keys() & have.keys())
            if _squeezed(have[name]) != _squeezed(wanted[name])
        ),
    ]
    if problems:
        name, _ = models.identify(config)
        raise InputError(
            f"{path} does not fit {name} as a file of {found.family.name} "
            f"({len(problems)} tensors differ):\n  " + "\n  ".join(problems)
        )
    return {path: row.to_ours(found.tensors, QKV) for path, row in rows.items()}


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of size one carry nothing: (1, 1, 1, C) group norms, (K, C, 1, 1) heads."""
    return tuple(size for size in shape if size != 1)


def adapt(
    params: Mapping[str, np.ndarray], stored: Config, wanted: Config, resample: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters of one model fitted to another, and lines that tell what was done."""
    if stored == wanted:
        return dict(params), []
    skip = []
    if stored.num_classes != wanted.num_classes:
        skip += ["head/.*", "head_dist/.*"]
    if getattr(stored, "pre_logits", 0) and not wanted.pre_logits:
        skip += ["pre_logits/.*"]
    result = {
        path: array
        for path, array in params.items()
        if not any(re.fullmatch(pattern, path) for pattern in skip)
    }
    changes = []
    if POSEMB in result and stored.grid != wanted.grid:
        old, slots = result[POSEMB], stored.posemb_slots
        result[POSEMB] = resample_posemb(
            old, stored.grid, wanted.grid, has_class_slot=slots, method=resample
        )
        changes.append(f"resized: {POSEMB} {old.shape} -> {result[POSEMB].shape}, {resample}")
    shapes = parameter_shapes(wanted)
    problems = [
        f"{path}: file {array.shape}, model {shapes.get(path, 'has none')}"
        for path, array in sorted(result.items())
        if shapes.get(path) != array.shape
    ]
    if problems:
        raise InputError("the options do not fit the file: " + "; ".join(problems))
    changes += [f"left out on request: {path}" for path in sorted(params.keys() - result.keys())]
    for path in sorted(shapes.keys() - result.keys()):
        if not path.startswith("head"):
            raise InputError(f"the options do not fit the file, which has no {path}")
        value = wanted.head_bias if path.endswith("bias") else 0.0
        result[path] = np.full(shapes[path], value, np.float32)
        changes.append(f"new: {path} {shapes[path]}, {value:g}")
    return result, changes

"""Reads published files into a model's name, options, parameters, labels and preprocessing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.text import some
from vit_jax.weights.description import described_model
from vit_jax.weights.families import Recognised, recognise
from vit_jax.weights.files.paths import read_files
from vit_jax.weights.files.tensors import not_floating
from vit_jax.weights.fit import refit
from vit_jax.weights.infer import check_sizes, infer
from vit_jax.weights.layout import Layout
from vit_jax.weights.record import Weights, layouts


def read(
    path: str | Path,
    *,
    resample: str | None = None,
    leave_out: Sequence[str] = (),
    **options: Any,
) -> Weights:
    """Reads any published ViT, hybrid or BiT.

    Args:
      path: a file or directory, a URL, or a Hugging Face hub id; see `read_files`.
      resample: method by which the position embedding is resized to another `image_size`.
      leave_out: patterns of names, as in the file, of tensors to ignore.
      **options: options of `create_model`. They give what the file leaves open (`num_heads`)
        or ask for a change: another `image_size` resizes the position embedding, another
        `num_classes` starts a new head, `pre_logits=0` drops that layer and the head.

    Raises:
      InputError: as `read_stored` and `fit`.
    """
    return refit(read_stored(path, options, leave_out), resample=resample, **options)


def read_stored(
    path: str | Path,
    told: Mapping[str, Any],
    leave_out: Sequence[str] = (),
    *,
    use_ema: bool = False,
) -> Weights:
    """Reads a published file as it is stored.

    Args:
      path, leave_out: as `read`.
      told: options of `create_model`, used where the file leaves them open.
      use_ema: whether to take the averaged parameters of a training checkpoint.

    Raises:
      InputError: no such file, an unknown family, an option that has to be given, or tensors
        that are missing, unexpected or of another shape, which the message lists.
    """
    path = str(path)
    files = read_files(path, use_ema=use_ema)
    found = recognise(path, files.tensors, files.configs, leave_out)
    source, size = "as the files say", None
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    usual_resample = found.family.resample
    if files.own:
        own, where = files.own
        config = described_model(own, where)
        check_sizes(where, found, config)
        params = _load(config, found, where)
        pp, labels, multi_label = own["pp"], own["labels"], own.get("multi_label", False)
    else:
        hints = dict(found.family.hints(found))
        remarks = tuple(hints.pop("notes", ()))
        usual_resample = hints.pop("resample", usual_resample)
        config = infer(path, found, hints, told)
        params = _load(config, found)
        labels, multi_label = _labels(found, config.num_classes), _multi_label(found)
        recipe = found.family.recipe(found)
        pp, size, notes = recipe.spec(recipe.size or config.image_size), recipe.size, recipe.notes
        if size is None:
            source = f"as is usual for {found.name}"
        elif notes:
            source = "as the files say, with the differences below"
    name, options = models.identify(config)
    return Weights(
        name=name,
        options=options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp=pp,
        multi_label=multi_label,
        input_size=size if size != config.image_size else None,
        resample="bicubic_antialias" if "registers" in params else usual_resample,
        labels=labels,
        source=path,
        family=found.name,
        aside=found.aside,
        report=[
            f"{path}: {found.name}, {name}, {len(found.tensors)} tensors loaded",
            *(f"note: {note}" for note in files.notes),
            f"preprocessing {source}: {pp}",
            *(f"note: {note}" for note in (*remarks, *notes)),
            *(f"left out on request: {name}" for name in found.left_out),
            *(f"left out, only self-supervised training uses it: {name}" for name in found.unused),
            *(f"left out, no weights but constants: {line}" for line in _summary(found.constants)),
            *(f"kept aside, no part of a classifier: {name}" for name in found.aside),
            *(f"set aside, another network: {line}" for line in _summary(found.other)),
        ],
    )


def _summary(names: Sequence[str]) -> list[str]:
    """A line for the tensors of each module, such as "text_model.* (37 tensors)"."""
    modules: dict[str, list[str]] = {}
    for name in sorted(names):
        modules.setdefault(name.split(".")[0], []).append(name)
    return [
        inside[0] if len(inside) == 1 else f"{module}.* ({len(inside)} tensors)"
        for module, inside in modules.items()
    ]


def _multi_label(found: Recognised) -> bool:
    """Whether config.json of transformers says that classes do not exclude each other."""
    return found.config_json.get("problem_type") == "multi_label_classification"


def _labels(found: Recognised, num_classes: int) -> list[str]:
    """Class names by index from the JSON of timm or transformers; [] if it has none."""
    config, where = found.config_json, f"{found.path}: config.json"
    named = config.get("label_names") or []
    by_id = config.get("id2label") or {}
    for key, value, kind in (("label_names", named, list), ("id2label", by_id, dict)):
        if not isinstance(value, kind):
            raise InputError(f"{where}: {key} is no {kind.__name__} of class names")
    if by_id and num_classes:
        if by_id.keys() != {str(i) for i in range(num_classes)}:
            raise InputError(
                f"{where}: id2label does not name the {num_classes} classes 0 to "
                f"{num_classes - 1} of the tensors; mend it, or remove it"
            )
        named = [by_id[str(i)] for i in range(num_classes)]
    if not all(isinstance(name, str) for name in named):
        raise InputError(
            f"{where}: {'id2label' if by_id else 'label_names'} has names that are no text"
        )
    if len(named) != num_classes or named == [f"LABEL_{i}" for i in range(num_classes)]:
        return []
    return named


def _load(config: ModelConfig, found: Recognised, where: str = "") -> dict[str, np.ndarray]:
    """Our parameters by path; arguments and errors as `matched`."""
    rows = matched(config, found, where)
    return {path: row.to_ours(found.tensors, found.family.words) for path, row in rows.items()}


def matched(config: ModelConfig, found: Recognised, where: str = "") -> dict[str, Layout]:
    """The layout of each of our parameters by path; every tensor is used exactly once.

    Args:
      config: configuration of the model.
      found: the file.
      where: place of the description that gave `config`; "": the file itself.

    Raises:
      InputError: tensors are missing, unexpected, of another shape or not floating-point; the
        message names the first three.
    """
    rows, words = layouts(config, found.family.table, found.name), found.family.words
    wanted = {name: row.their_shape for row in rows.values() for name, _ in row.tensors(words)}
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
        *(
            f"no floating-point numbers: {found.original[name]} {found.tensors[name].dtype}"
            for name in sorted(not_floating(found.tensors))
        ),
    ]
    if problems and where:
        raise InputError(
            f"{where}: model does not fit the tensors of {found.path}: {some(problems, 3, '; ')}"
        )
    if problems:
        name, _ = models.identify(config)
        raise InputError(
            f"{found.path} does not fit {name} as a file of {found.name} "
            f"({len(problems)} tensors differ): {some(problems, 3, '; ')}"
        )
    return rows


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of size one, as in (1, 1, 1, C) norms and (K, C, 1, 1) heads."""
    return tuple(size for size in shape if size != 1)

"""Published files -> a model's name, options, parameters and what else is known, strictly."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.weights import metadata
from vit_jax.weights.families import QKV, Recognised, recognise
from vit_jax.weights.files import read_files
from vit_jax.weights.infer import infer
from vit_jax.weights.layout import Layout, layout_of
from vit_jax.weights.preprocessing import recipe_of
from vit_jax.weights.record import Config, Published, change, parameter_shapes


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
        `num_classes` starts a new head, `pre_logits=0` drops that layer and does so too.

    Raises:
      InputError: no such file, an unknown family, something that has to be given, or
        missing, unexpected and misshapen tensors, which the message lists.
    """
    path = str(path)
    files = read_files(path)
    found = recognise(path, files.tensors, leave_out)
    own = metadata.sidecar(files.configs)
    if own:
        config = models.model_config(**own["model"])
    else:
        config = infer(path, found, metadata.hints(path, found, files.configs), options)
    params = load(path, config, found)
    name, stored_options = models.identify(config)
    pp = own["pp"] if own else recipe_of(found, files.configs).spec(config.image_size)
    source = "as the files say" if files.configs else f"as is usual for {found.family.name}"
    published = Published(
        name=name,
        options=stored_options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp=pp,
        labels=own["labels"] if own else metadata.labels(files.configs, config.num_classes),
        family=found.family.name,
        aside=found.aside,
        report=[
            f"{path}: {found.family.name}, {name}, {len(found.tensors)} tensors loaded",
            f"preprocessing {source}: {pp}",
            *(f"left out on request: {name}" for name in found.left_out),
            *(f"kept aside, no part of a classifier: {name}" for name in found.aside),
        ],
    )
    return change(published, resample=resample, **options)


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

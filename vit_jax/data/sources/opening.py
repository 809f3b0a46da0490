"""Opens sources by their spec: digits, idx:, npz:, folder:, tfds: and mixtures of them."""

import os
from typing import Any

import numpy as np

from vit_jax.data import order
from vit_jax.data.sources import arrays, folder, mixture, splits
from vit_jax.data.sources.source import ArraySource, FileSource, Source
from vit_jax.errors import InputError, unknown

# What a spec looks like, by kind.
FORMS = dict(
    digits="digits",
    idx="idx:DIR",
    npz="npz:FILE",
    folder="folder:DIR",
    tfds="tfds:NAME or tfds:NAME?label=LABEL",
    mix="mix:SOURCE*WEIGHT+SOURCE*WEIGHT",
)


def open_source(
    spec: str,
    split: str,
    *,
    data_dir: str = "",
    cache_dir: str = "",
    multi_label: bool = False,
    sequential: bool = False,
) -> Source:
    """Opens a data source.

    Args:
      spec: one of `FORMS`, e.g. "folder:photos" or "mix:digits*0.3+folder:photos*0.7".
      split: in tfds syntax, e.g. "train[:80%]"; see `splits.select` for how slices are cut.
      data_dir: where tfds looks; "" for its default.
      cache_dir: where lists and indices are kept; "" for beside the data, see `cache`.
      multi_label: labels are sets of classes.
      sequential: read the files of tfds from front to back, see `records`.

    Raises:
      InputError: unknown kind, split or data set, something missing or unreadable, more
        than 2**31 examples.
    """
    kind, _, argument = spec.partition(":")
    if kind not in FORMS:
        raise unknown("data source", spec, FORMS)
    if (kind != "digits") != bool(argument):
        raise InputError(f"bad data source {spec!r}; write {FORMS[kind]}")
    options = dict(data_dir=data_dir, cache_dir=cache_dir, multi_label=multi_label)
    common = dict(name=spec, split=split, multi_label=multi_label)
    path = os.path.expanduser(argument)
    if sequential and kind != "tfds":
        raise InputError(f"data.sequential is for tfds sources; {spec} is read at random")
    if kind == "mix":
        parts = [
            (open_source(part, split, **options), weight)
            for part, weight in mixture.parse(argument)
        ]
        source = mixture.mix(parts, **common)
    elif kind == "folder":
        source = _open_folder(folder.scan(path, cache_dir), common)
    elif kind == "tfds":
        from vit_jax.data.sources import records

        source = records.open_tfds(
            path, data_dir=data_dir, cache_dir=cache_dir, sequential=sequential, **common
        )
    else:
        source = _open_arrays(arrays.LOADERS[kind](path), common)
    if source.size >= order.MAX_SIZE:
        raise InputError(f"{spec} has {source.size} examples, more than {order.MAX_SIZE}")
    return source


def open_configured(options: Any, *, source: str | None = None, split: str = "") -> Source:
    """The source that the `data` section of a config names.

    Args:
      options: `config.data`.
      source, split: instead of those of the section, for evaluation: read at random.

    Raises:
      InputError: as `open_source`.
    """
    return open_source(
        source or options.source,
        split or options.split,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        multi_label=options.multi_label,
        sequential=options.sequential and not split,
    )


def _open_arrays(data: arrays.Arrays, common: dict) -> ArraySource:
    """The selected rows of loaded arrays."""
    sizes = {name: len(images) for name, (images, _) in data.splits.items()}
    parts = splits.select(common["split"], sizes, lambda part: data.splits[part][1], common["name"])
    images = _join([data.splits[part][0] for part, _ in parts], [rows for _, rows in parts])
    targets = _join([data.splits[part][1] for part, _ in parts], [rows for _, rows in parts])
    _check_labels(targets, common)
    return ArraySource(
        images=images,
        targets=targets,
        size=len(images),
        label_names=data.label_names,
        image_size=images.shape[1:3],
        **common,
    )


def _join(tables: list[np.ndarray], rows: list[np.ndarray]) -> np.ndarray:
    """Rows of several arrays as one; no copy where that is a whole array."""
    if len(tables) == 1 and len(rows[0]) == len(tables[0]):
        return tables[0]
    return np.concatenate([table[row] for table, row in zip(tables, rows)])


def _check_labels(targets: np.ndarray, common: dict) -> None:
    if targets.ndim > 1 and not common["multi_label"]:
        raise InputError(
            f"{common['name']} holds sets of classes; set data.multi_label=True "
            "(and loss.name='sigmoid')"
        )


def _open_folder(data: folder.Folder, common: dict) -> FileSource:
    """The selected files of a scanned folder."""
    sizes = {name: len(rows) for name, rows in data.splits.items()}
    parts = splits.select(
        common["split"], sizes, lambda part: data.files.targets[data.splits[part]], common["name"]
    )
    listing = data.files.take(np.concatenate([data.splits[part][rows] for part, rows in parts]))
    return FileSource(
        files=listing.paths,
        targets=listing.targets,
        file_sizes=listing.sizes,
        size=len(listing.targets),
        label_names=data.label_names,
        **common,
    )

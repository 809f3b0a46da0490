"""Opens sources by name: digits, idx:, npz:, folder:, tfds:, mixtures, and a user's own."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax.data import order
from vit_jax.data.options import DataOptions
from vit_jax.data.sources import arrays, folder, mixture, splits
from vit_jax.data.sources.source import ArraySource, FileSource, Source
from vit_jax.errors import InputError, unknown
from vit_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a source, beside its argument.

    Attributes:
      name: the whole text of data.source.
      split: in tfds syntax.
      multi_label: labels are sets of classes.
      data_dir: where tfds looks; "" for its default.
      cache_dir: where lists and indices are kept; "" for beside the data, see `cache`.
      sequential: read from front to back.
    """

    name: str
    split: str
    multi_label: bool = False
    data_dir: str = ""
    cache_dir: str = ""
    sequential: bool = False

    @property
    def common(self) -> dict[str, Any]:
        """The attributes that a `Source` takes from here."""
        return dict(name=self.name, split=self.split, multi_label=self.multi_label)


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
      open: (argument, request) -> the source.
      form: how it is written, such as "folder:DIR".
      in_order: it can be read from front to back.
    """

    open: Callable[[str, Request], Source]
    form: str
    in_order: bool = False


SOURCES: Registry[SourceKind] = Registry("data source")


def source_kind(form: str, *, in_order: bool = False):
    """Registers a function (argument, request) -> Source, under what stands before the colon.

    Args:
      form: how the source is written: "folder:DIR"; "digits" has no argument.
      in_order: it honours `request.sequential`.
    """

    def register(open: Callable[[str, Request], Source]) -> Callable[[str, Request], Source]:
        SOURCES.add(form.partition(":")[0], SourceKind(open, form, in_order), open)
        return open

    return register


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
      spec: e.g. "folder:photos" or "mix:digits*0.3+folder:photos*0.7"; see `SOURCES`.
      split: in tfds syntax, e.g. "train[:80%]"; see `splits.select` for how slices are cut.
      data_dir: where tfds looks; "" for its default.
      cache_dir: where lists and indices are kept; "" for beside the data, see `cache`.
      multi_label: labels are sets of classes.
      sequential: read the files of tfds from front to back, see `records`.

    Raises:
      InputError: unknown kind, split or data set, something missing or unreadable, more
        than 2**31 examples.
    """
    name, _, argument = spec.partition(":")
    if name not in SOURCES:
        raise unknown("data source", spec, SOURCES)
    kind = SOURCES[name]
    if (":" in kind.form) != bool(argument):
        raise InputError(f"bad data source {spec!r}; write {kind.form}")
    if sequential and not kind.in_order:
        raise InputError(f"data.sequential is for tfds sources; {spec} is read at random")
    request = Request(spec, split, multi_label, data_dir, cache_dir, sequential)
    source = kind.open(argument, request)
    if source.size >= order.MAX_SIZE:
        raise InputError(f"{spec} has {source.size} examples, more than {order.MAX_SIZE}")
    return source


def open_configured(
    options: DataOptions,
    *,
    source: str | None = None,
    split: str = "",
    multi_label: bool | None = None,
) -> Source:
    """The source that the `data` section of a config names, or another read as it says.

    Args:
      options: `config.data`.
      source, split: instead of those of the section, for evaluation: read at random.
      multi_label: instead of the section's.

    Raises:
      InputError: as `open_source`.
    """
    return open_source(
        source or options.source,
        split or options.split,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        multi_label=options.multi_label if multi_label is None else multi_label,
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


def _arrays(load: Callable[[str], arrays.Arrays]) -> Callable[[str, Request], Source]:
    def open(argument: str, request: Request) -> Source:
        return _open_arrays(load(os.path.expanduser(argument)), request.common)

    return open


for _form in ("digits", "idx:DIR", "npz:FILE"):
    source_kind(_form)(_arrays(arrays.LOADERS[_form.partition(":")[0]]))


@source_kind("folder:DIR")
def _folder(argument: str, request: Request) -> Source:
    scanned = folder.scan(os.path.expanduser(argument), request.cache_dir)
    return _open_folder(scanned, request.common)


@source_kind("tfds:NAME or tfds:NAME?label=LABEL", in_order=True)
def _tfds(argument: str, request: Request) -> Source:
    from vit_jax.data.sources import records

    return records.open_tfds(
        os.path.expanduser(argument),
        data_dir=request.data_dir,
        cache_dir=request.cache_dir,
        sequential=request.sequential,
        **request.common,
    )


@source_kind("mix:SOURCE*WEIGHT+SOURCE*WEIGHT")
def _mix(argument: str, request: Request) -> Source:
    def opened(part: str) -> Source:
        return open_source(
            part,
            request.split,
            data_dir=request.data_dir,
            cache_dir=request.cache_dir,
            multi_label=request.multi_label,
        )

    parts = [(opened(part), weight) for part, weight in mixture.parse(argument)]
    return mixture.mix(parts, **request.common)

"""Opens data sources by name, users' own among them; see `SOURCES`."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import order
from vit_jax.data.balance import Balance
from vit_jax.data.listing import read_labels
from vit_jax.data.ops.image_files import MAX_PIXELS
from vit_jax.data.options import DataOptions
from vit_jax.data.sources import arrays, folder, mixture, splits
from vit_jax.data.sources.layouts import flat, imagenet
from vit_jax.data.sources.source import ArraySource, FileSource, Source
from vit_jax.errors import InputError, nearest, unknown
from vit_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Request:
    """The options with which a source is opened, besides its argument.

    Attributes:
      name: whole text of data.source.
      split: split in tfds syntax.
      multi_label: whether labels are sets of classes.
      data_dir: folder of tfds data; "": the default of tfds.
      cache_dir: folder for cached lists and indices; "": beside the data, see `cache`.
      sequential: whether to read from front to back.
      max_pixels: largest number of pixels of an image file.
      nested, follow_links: how image folders are listed, see `folder.scan`.
    """

    name: str
    split: str
    multi_label: bool = False
    data_dir: str = ""
    cache_dir: str = ""
    sequential: bool = False
    max_pixels: int = MAX_PIXELS
    nested: str = "no"
    follow_links: bool = False

    @property
    def common(self) -> dict[str, Any]:
        """The attributes that a `Source` has in common with the request."""
        names = ("name", "split", "multi_label", "max_pixels")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
      open: function (argument, request) -> source.
      form: notation in configs, such as "folder:DIR".
      in_order: whether it can be read from front to back.
    """

    open: Callable[[str, Request], Source]
    form: str
    in_order: bool = False


SOURCES: Registry[SourceKind] = Registry("data source")


def source_kind(form: str, *, in_order: bool = False):
    """Registers a function (argument, request) -> Source under the name before the colon.

    Args:
      form: notation in configs: "folder:DIR"; "digits" has no argument.
      in_order: whether it supports `request.sequential`.
    """

    def register(open: Callable[[str, Request], Source]) -> Callable[[str, Request], Source]:
        SOURCES.add(form.partition(":")[0], SourceKind(open, form, in_order), open)
        return open

    return register


_BY_ENDING = {
    **dict.fromkeys((".csv", ".tsv", ".jsonl"), "csv"),
    ".parquet": "parquet",
    ".tar": "wds",
    ".npz": "npz",
}


def kind_of(path: str) -> str:
    """The kind of source that reads a folder or a file, by its ending; "" if none does."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return "folder"
    return _BY_ENDING.get(os.path.splitext(path)[1].lower(), "") if os.path.exists(path) else ""


def as_source(text: str) -> str:
    """A source with its kind: photos is folder:photos, labels.csv is csv:labels.csv.

    Raises:
      InputError: it is neither a data source, a folder nor a file of a known ending.
    """
    kind, colon, _ = text.partition(":")
    if kind in SOURCES:
        return text
    # A file may be followed by options, as in labels.csv?label=breed.
    if meant := kind_of(text) or kind_of(text.partition("?")[0]):
        return f"{meant}:{text}"
    if colon:
        raise unknown("data source", text, SOURCES)
    place = Path(os.path.expanduser(text))
    with contextlib.suppress(OSError):
        beside = [str(one) for one in sorted(place.parent.iterdir()) if kind_of(str(one))]
        if hint := nearest(str(place), beside, cutoff=0.8):
            raise InputError(f"there is no folder or table {text}{hint}")
    known = f"; sources are {', '.join(SOURCES)}, such as folder:DIR"
    raise InputError(
        f"there is no folder or table {text} here, and no data source of that name"
        f"{nearest(text, SOURCES, cutoff=0.8) or known}"
    )


def open_source(
    spec: str,
    split: str,
    *,
    data_dir: str = "",
    cache_dir: str = "",
    multi_label: bool = False,
    sequential: bool = False,
    max_pixels: int = MAX_PIXELS,
    nested: str = "no",
    follow_links: bool = False,
) -> Source:
    """Opens a data source.

    Args:
      spec: source, e.g. "photos", "folder:photos" or "mix:digits*0.3+folder:photos*0.7"; see
        `SOURCES` and `as_source`.
      split: split in tfds syntax, e.g. "train[:80%]"; see `splits.select` for how slices are cut.
      data_dir: folder of tfds data; "": the default of tfds.
      cache_dir: folder for cached lists and indices; "": beside the data, see `cache`.
      multi_label: whether labels are sets of classes.
      sequential: whether to read the files of tfds from front to back, see `records`.
      max_pixels: largest number of pixels of an image file; larger ones are unreadable.
      nested, follow_links: how image folders are listed, see `folder.scan`.

    Raises:
      InputError: an unknown kind, split or data set, missing or unreadable data, or more
        than 2**31 examples.
    """
    spec = as_source(spec)
    name, _, argument = spec.partition(":")
    kind = SOURCES[name]
    if (":" in kind.form) != bool(argument):
        raise InputError(f"bad data source {spec!r}; write {kind.form}")
    if sequential and not kind.in_order:
        raise InputError(f"data.sequential is for tfds sources; {spec} is read at random")
    request = Request(
        spec, split, multi_label, data_dir, cache_dir, sequential, max_pixels, nested, follow_links
    )
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
    """Opens the source that the `data` section of a config names, or another with its options.

    Args:
      options: `config.data`.
      source, split: source and split to open instead, for evaluation; read at random.
      multi_label: value to use instead of the section's.

    Raises:
      InputError: as `open_source`, or options that contradict `data.balance`.
    """
    opened = open_source(
        source or options.source,
        split or options.split,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        multi_label=options.multi_label if multi_label is None else multi_label,
        sequential=options.sequential and not split,
        max_pixels=options.max_pixels,
        nested=options.nested,
        follow_links=options.follow_links,
    )
    return _balanced(opened, options) if options.balance and not split else opened


def _balanced(source: Source, options: DataOptions) -> Source:
    """A source for training that draws its classes as `options.balance` says."""
    if options.balance > 1:
        raise InputError(f"config.data.balance is {options.balance:g}; it must be from 0 to 1")
    for name, refused in (
        ("sequential", options.sequential),
        ("resident", options.resident),
        ("multi_label", source.multi_label),
        ("shuffle", not options.shuffle),
    ):
        if refused:
            value = name != "shuffle"
            raise InputError(
                f"config.data.balance does not go with data.{name}={value}; set it to 0"
            )
    if isinstance(source, mixture.MixtureSource):
        raise InputError("config.data.balance does not go with mix:, whose weights say the shares")
    return dataclasses.replace(source, balance=Balance(read_labels(source), options.balance))


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
        rows=splits.rows_of_all(parts, sizes),
        size=len(images),
        label_names=data.label_names,
        image_size=images.shape[1:3],
        **common,
    )


def _join(tables: list[np.ndarray], rows: list[np.ndarray]) -> np.ndarray:
    """Rows of several arrays as one array; a single whole array is not copied."""
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
        rows=splits.rows_of_all(parts, sizes),
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


@source_kind("folder:DIR or folder:DIR?label=REGEX")
def _folder(argument: str, request: Request) -> Source:
    if request.nested not in folder.NESTED:
        raise unknown("data.nested", request.nested, folder.NESTED)
    place, label = _query(os.path.expanduser(argument), request)
    cache_dir, nested, links = request.cache_dir, request.nested, request.follow_links
    if label:
        scanned = flat.scan(place, label, cache_dir, nested=nested, follow_links=links)
    elif nested == "no" and imagenet.is_root(place):
        scanned = imagenet.scan(place, cache_dir, follow_links=links)
    else:
        scanned = folder.scan(place, cache_dir, nested=nested, follow_links=links)
    return _open_folder(scanned, request.common)


@source_kind("wds:SHARDS or wds:SHARDS?label=FIELD")
def _wds(argument: str, request: Request) -> Source:
    from vit_jax.data.sources.shards import wds

    place, label = _query(argument, request)
    found = wds.scan(place, label, request.cache_dir)
    sizes = {name: len(rows) for name, rows in found.splits.items()}
    parts = splits.select(
        request.split,
        sizes,
        lambda part: found.columns["targets"][found.splits[part]],
        request.name,
    )
    rows = np.concatenate([found.splits[part][rows] for part, rows in parts])
    return wds.TarSource(
        shards=found.paths,
        members=found.members.take(rows),
        **{name: column[rows] for name, column in found.columns.items()},
        rows=splits.rows_of_all(parts, sizes),
        size=len(rows),
        label_names=found.label_names,
        **request.common,
    )


def _query(argument: str, request: Request) -> tuple[str, str]:
    """ "DIR?label=LABEL" -> DIR, LABEL; the label is taken as written, as it may be a pattern."""
    place, mark, label = argument.partition("?label=")
    other = not mark and re.search(r"\?\w+=", argument) and "://" not in argument
    if not place or (mark and not label) or other:
        raise InputError(
            f"bad data source {request.name!r}; write {SOURCES[request.name.split(':')[0]].form}"
        )
    return place, label


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


@source_kind("csv:FILE or csv:FILE?path=COLUMN&label=COLUMN&split=COLUMN")
def _csv(argument: str, request: Request) -> Source:
    from vit_jax.data.sources.tables import listed

    return listed.open_csv(argument, request)


@source_kind("parquet:FILES or parquet:FILES?image=COLUMN&label=COLUMN")
def _parquet(argument: str, request: Request) -> Source:
    from vit_jax.data.sources.tables import parquet

    return parquet.open_parquet(argument, request)


@source_kind("hf:DIR or hf:NAME?config=NAME&image=COLUMN&label=COLUMN&revision=REVISION")
def _hf(argument: str, request: Request) -> Source:
    from vit_jax.data.sources.tables import hub

    return hub.open_hf(argument, request)


@source_kind("mix:SOURCE*WEIGHT+SOURCE*WEIGHT")
def _mix(argument: str, request: Request) -> Source:
    def opened(part: str) -> Source:
        return open_source(
            part,
            request.split,
            data_dir=request.data_dir,
            cache_dir=request.cache_dir,
            multi_label=request.multi_label,
            max_pixels=request.max_pixels,
            nested=request.nested,
            follow_links=request.follow_links,
        )

    parts = [(opened(part), weight) for part, weight in mixture.parse(argument)]
    return mixture.mix(parts, **request.common)

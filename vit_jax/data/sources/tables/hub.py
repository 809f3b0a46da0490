"""Hugging Face image data sets: `hf:NAME` from the hub, `hf:DIR` from a folder.

A folder may hold parquet files, a data set saved by `save_to_disk`, or images with
metadata.csv or metadata.jsonl. Names on the hub, and saved data sets, are read by the library
`datasets`, as memory-mapped Arrow tables.
"""

import glob
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax.data.sources.opening import Request
from vit_jax.data.sources.source import Source
from vit_jax.data.sources.tables import classes, listed, parquet, schema
from vit_jax.data.sources.tables.columns import ColumnSource
from vit_jax.data.sources.tables.query import parse_known
from vit_jax.errors import InputError
from vit_jax.text import first_line

_OPTIONS = ("config", "image", "label", "revision")
_METADATA = ("metadata.csv", "metadata.jsonl")
_BATCH = 1000  # rows


class ArrowImages:
    """The column of images of splits that the library `datasets` has opened.

    Args:
      parts: data sets by split, in order.
      fields: their columns.
    """

    def __init__(self, parts: dict[str, Any], fields: schema.Fields):
        self._fields = fields
        self._names = list(parts)
        # Rows as Arrow: the library would decode images and copy labels.
        self._parts = [
            part.select_columns([fields.image]).with_format("arrow") for part in parts.values()
        ]
        self.starts = np.cumsum([0, *(len(part) for part in self._parts)])

    def read(self, rows: np.ndarray) -> list[bytes]:
        which = np.searchsorted(self.starts, rows, side="right") - 1
        found = [b""] * len(rows)
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            own = [int(row) for row in rows[places] - self.starts[number]]
            images = schema.image_bytes(self._parts[number][own].column(0), self._fields)
            for place, value in zip(places, images):
                found[place] = value.as_py() or b""
        return found

    def describe(self, row: int) -> str:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"row {row - int(self.starts[number])} of {self._names[number]}"

    def sizes(self) -> np.ndarray:
        """Bytes of each image, -1 where there is none: int32. Reads no image."""
        import pyarrow.compute as pc

        found = [
            pc.fill_null(pc.binary_length(schema.image_bytes(table.column(0), self._fields)), -1)
            .to_numpy()
            .astype(np.int32)
            for part in self._parts
            for table in part.iter(_BATCH)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int32)


def open_hf(argument: str, request: Request) -> Source:
    """Opens `hf:DIR` or `hf:NAME?config=NAME&image=COLUMN&label=COLUMN&revision=REVISION`.

    Raises:
      InputError: a folder without a data set, a data set that the hub does not have, no
        network, a missing library, or as `open_parquet`.
    """
    place, options = parse_known("hf", argument, _OPTIONS)
    folder = os.path.expanduser(place)
    columns = {key: value for key, value in options.items() if key in ("image", "label")}
    if not os.path.isdir(folder):
        if place.startswith((".", "/", "~")):
            raise InputError(f"hf:{place}: no such directory")
        return _open_parts(place, _from_hub(place, options), columns, request)
    for key in ("config", "revision"):
        if key in options:
            raise InputError(
                f"hf:{argument}: {key} is for data sets of the hub; {place} is a folder"
            )
    if any(os.path.isfile(os.path.join(folder, file)) for file in _SAVED):
        return _open_parts(place, _from_disk(folder), columns, request)
    if files := _below(folder, "*.parquet"):
        return parquet.open_files(files, columns, request)
    if files := [file for known in _METADATA for file in _below(folder, known)]:
        if "image" in columns:
            columns["path"] = columns.pop("image")
        return listed.open_listed(sorted(files), columns, request)
    raise InputError(
        f"hf:{place} holds no parquet files and no {' or '.join(_METADATA)}; a folder with a "
        f"subfolder of images per class is read by folder:{place}"
    )


_SAVED = ("dataset_dict.json", "state.json")  # written by save_to_disk


def _below(folder: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "**", pattern), recursive=True))


def _library(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(f"source hf:{name} needs datasets: pip install datasets") from None
    return datasets


def _from_disk(folder: str) -> dict[str, Any]:
    """The splits of a data set saved by `save_to_disk`."""
    library = _library(folder)
    try:
        found = library.load_from_disk(folder)
    except Exception as error:  # of many libraries below it
        raise InputError(f"hf:{folder}: cannot be read: {first_line(error)}") from None
    if isinstance(found, library.DatasetDict):
        return dict(found)
    return {str(found.split or "train"): found}


def _from_hub(name: str, options: dict[str, str]) -> dict[str, Any]:
    """The splits of a data set on the hub, downloaded once."""
    library = _library(name)
    try:
        return dict(
            library.load_dataset(name, options.get("config"), revision=options.get("revision"))
        )
    except Exception as error:  # of many libraries below it, such as those of the network
        raise InputError(f"hf:{name} cannot be loaded from the hub: {first_line(error)}") from None


def _open_parts(
    place: str, parts: dict[str, Any], columns: Mapping[str, str], request: Request
) -> ColumnSource:
    """Splits that the library has opened as one source."""
    where = f"hf:{place}"
    parts = {part: parts[part] for part in sorted(parts)}
    first = next(iter(parts.values()))
    fields = schema.find_fields(where, first.features.arrow_schema, columns)
    for part, found in parts.items():
        if schema.find_fields(where, found.features.arrow_schema, columns) != fields:
            raise InputError(f"{where}: {part} has other columns or classes than the other splits")
    images = ArrowImages(parts, fields)
    labels = schema.joined(
        [
            schema.label_column(
                where,
                found.select_columns([fields.label]).with_format("arrow")[:].column(0),
                fields,
            )
            for found in parts.values()
        ]
    )
    chosen = classes.choose(
        labels,
        {
            part: np.arange(images.starts[number], images.starts[number + 1])
            for number, part in enumerate(parts)
        },
        request=request,
        describe=lambda row: f"{where}: {images.describe(row)}",
    )
    content = hashlib.blake2b(images.sizes()[chosen.rows].data, digest_size=16).digest()
    return ColumnSource.of(chosen, images, content, request)

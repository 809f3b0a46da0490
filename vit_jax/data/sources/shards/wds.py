"""`wds:`: images in the tar files of WebDataset, on a disk or under an address.

Examples are sorted by class, then by name, as those of `folder:`. The order does not depend on
how they are cut into shards, and a run reads the same batches as from the unpacked folder.
"""

import dataclasses
import functools
import json
import os
import posixpath
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict

import numpy as np

from vit_jax.data.ops.image_files import HEAD_BYTES
from vit_jax.data.sources.folder import SPLITS, Paths, sort_classes
from vit_jax.data.sources.shards import storage
from vit_jax.data.sources.shards.index import ENDING, Shard, check, open_shard
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError
from vit_jax.text import some

_INFO = ("_info.json", "info.json")
_CLASSES = "classes.txt"
_MAX_CLASSES = 100_000
_INDEXED_AT_ONCE = 8  # shards, each with a block of `record_files.BLOCK` bytes if remote


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarSource(Source):
    """Images in tar files.

    Attributes:
      shards: paths of the tar files.
      shard: number of each example's, int32 (size,).
      offsets, file_sizes: place of each image in bytes, int64 (size,).
      checks: checksums of their middles, uint32 (size,).
      members: name of each.
      targets: classes, int32 (size,).
    """

    shards: Sequence[str]
    shard: np.ndarray
    offsets: np.ndarray
    file_sizes: np.ndarray
    checks: np.ndarray
    members: Paths
    targets: np.ndarray

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(storage.AT_ONCE)

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = list(self._pool.map(self._image, index))
        return payloads

    def _image(self, index: int) -> bytes:
        path, size = self.shards[self.shard[index]], int(self.file_sizes[index])
        image = storage.read(path, size, int(self.offsets[index]))
        if len(image) != size or check(image) != self.checks[index]:
            raise InputError(
                f"{self.describe(index)} is not where the index says; the file has changed"
            )
        return image

    def stored_bytes(self, index: int) -> int:
        return int(self.file_sizes[index])

    def labels(self, index: np.ndarray) -> np.ndarray:
        return self._encode(self.targets[index])

    def file_names(self) -> list[str]:
        return [posixpath.basename(os.fsdecode(name)) for name in self.members]

    def head(self, index: int) -> bytes:
        length = min(HEAD_BYTES, int(self.file_sizes[index]))
        path = self.shards[self.shard[index]]
        return storage.read(path, length, int(self.offsets[index]))

    def describe(self, index: int) -> str:
        return f"{os.fsdecode(self.members.name(index))} of {self.shards[self.shard[index]]}"

    def _identity(self):
        yield from (self.members.name(row) for row in range(self.size))
        yield self.file_sizes
        yield self.checks
        yield self.targets


class _Split(TypedDict, total=False):
    """What _info.json says of a split."""

    num_samples: int
    filenames: list[str]
    shard_lengths: list[int]
    alt_label: str


@dataclasses.dataclass(frozen=True)
class Shards:
    """All examples of some shards, sorted by split, class and name.

    Attributes:
      paths: of the tar files.
      columns: arrays of `TarSource` by name.
      members: name of each.
      splits: rows of each split.
      label_names: class names by number.
    """

    paths: list[str]
    columns: dict[str, np.ndarray]
    members: Paths
    splits: dict[str, np.ndarray]
    label_names: list[str]


def scan(pattern: str, field: str, cache_dir: str) -> Shards:
    """Indexes shards.

    Args:
      pattern: address of the tar files, see `storage.expand`.
      field: field of KEY.json that holds the label, see `index.open_shard`.
      cache_dir: see `cache`.

    Raises:
      InputError: no shards, what `index.open_shard` raises, shards of which some tell their
        split and some do not, or labels that are no classes.
    """
    paths = storage.expand(pattern, ENDING)
    info, names = _beside(paths[0])
    split_of = _splits(pattern, paths, info)
    fields = [field or str(info.get(split, {}).get("alt_label", "")) for split in split_of]
    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool:
        shards = list(
            pool.map(lambda path, field: open_shard(path, field, cache_dir), paths, fields)
        )
    _check_sizes(info, split_of, shards)
    label_names, number = _numbered(pattern, split_of, shards, names)
    return _sorted(shards, split_of, label_names, number)


def _beside(path: str) -> tuple[dict[str, _Split], list[str]]:
    """Splits and class names in the files beside a shard, or above its split's folder."""
    folder = path.rpartition("/")[0]
    places = [folder]
    if posixpath.basename(folder).lower() in SPLITS:
        places.append(folder.rpartition("/")[0])
    info: dict[str, _Split] = {}
    names: list[str] = []
    for place in places:
        for name in _INFO:
            where = f"{place}/{name}" if place else name
            if not info and not names and (text := storage.small_file(where)) is not None:
                info, names = _parsed(text, where)
    for place in places:
        where = f"{place}/{_CLASSES}" if place else _CLASSES
        if (text := storage.small_file(where)) is not None:
            lines = [line.strip() for line in _decoded(text, where).splitlines()]
            return info, _unique([line for line in lines if line], where)
    return info, names


def _decoded(text: bytes, where: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8") from None


def _parsed(text: bytes, where: str) -> tuple[dict[str, _Split], list[str]]:
    try:
        found = json.loads(_decoded(text, where))
    except (ValueError, RecursionError):
        raise InputError(f"{where} is not JSON") from None
    splits = found.get("splits", {}) if isinstance(found, dict) else None
    names = found.get("class_names", []) if isinstance(found, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(part, dict) for part in splits.values()):
        raise InputError(f"{where}: expected an object with the object 'splits'")
    for part in splits.values():
        files, lengths = part.get("filenames", []), part.get("shard_lengths", [])
        good = isinstance(files, list) and isinstance(lengths, list)
        if not (good and all(isinstance(name, str) for name in files)):
            raise InputError(f"{where}: filenames and shard_lengths are lists")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: class_names is a list of names")
    return splits, _unique(names, where)


def _unique(names: list[str], where: str) -> list[str]:
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{where} names class {twice!r} twice")
    return names


def _splits(pattern: str, paths: list[str], info: dict[str, _Split]) -> list[str]:
    """The split of each shard: of _info.json, its name or its folder; "train" if none tells."""
    listed = {
        posixpath.basename(name): split
        for split, part in info.items()
        for name in part.get("filenames", [])
    }
    found = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        words = re.split(r"[-_.]", name.lower())
        of_name = next((word for word in words if word in SPLITS), "")
        above = posixpath.basename(folder)
        of_folder = above if above.lower() in SPLITS else ""
        found.append(listed.get(name) or of_name or of_folder)
    if not any(found):
        return ["train"] * len(paths)
    if "" in found:
        raise InputError(
            f"wds:{pattern}: the name of {paths[found.index('')]} tells no split, as those of "
            f"others do ({some(sorted(set(found) - {''}))}); name the shards you mean"
        )
    return found


def _check_sizes(info: dict[str, _Split], split_of: list[str], shards: list[Shard]) -> None:
    """Compares the shards with the numbers in _info.json."""
    for split, part in info.items():
        mine = {
            posixpath.basename(shard.path): len(shard.codes)
            for shard, name in zip(shards, split_of)
            if name == split
        }
        files = [posixpath.basename(name) for name in part.get("filenames", [])]
        for name, stated in zip(files, part.get("shard_lengths", [])):
            if mine.get(name, stated) != stated:
                raise InputError(f"{name} holds {mine[name]:,} examples; _info.json says {stated}")
        total, claimed = sum(mine.values()), part.get("num_samples")
        if claimed is not None and mine.keys() == set(files) and total != claimed:
            raise InputError(f"split {split} holds {total:,} examples; _info.json says {claimed}")


def _numbered(
    pattern: str, split_of: list[str], shards: list[Shard], names: list[str]
) -> tuple[list[str], dict[str, int]]:
    """Class names, and the number of the class that each label stands for."""
    first = "train" if "train" in split_of else split_of[0]
    by_split: dict[str, set[str]] = {}
    for split, shard in zip(split_of, shards):
        by_split.setdefault(split, set()).update(shard.labels)
    labels = set().union(*by_split.values())
    if len(labels) > _MAX_CLASSES:
        raise InputError(
            f"wds:{pattern}: {len(labels):,} different labels, such as "
            f"{next(iter(shards[0].labels))!r}; name the field of KEY.json that holds the class: "
            "?label=FIELD"
        )
    if not names:
        for split, inside in by_split.items():
            if extra := sort_classes(list(inside - by_split[first])):
                raise InputError(
                    f"wds:{pattern}: class {extra[0]!r} is in {split} but not in {first}"
                )
        names = sort_classes(list(by_split[first]))
        return names, {name: number for number, name in enumerate(names)}
    number = {name: number for number, name in enumerate(names)}
    if labels <= number.keys():
        return names, number
    for label in sort_classes(list(labels)):
        if not (label.isascii() and label.isdecimal() and int(label) < len(names)):
            raise InputError(
                f"wds:{pattern}: label {label!r} is neither a class that {_CLASSES} (or "
                f"_info.json) names nor a number below {len(names)}"
            )
    return names, {label: int(label) for label in labels}


def _sorted(
    shards: list[Shard], split_of: list[str], label_names: list[str], number: dict[str, int]
) -> Shards:
    """All shards as one table."""
    targets = np.concatenate(
        [np.array([number[label] for label in s.labels], np.int32)[s.codes] for s in shards]
    )
    names = [name for shard in shards for name in shard.names]
    which = np.repeat(np.arange(len(shards), dtype=np.int32), [len(s.codes) for s in shards])
    splits = list(dict.fromkeys(sorted(split_of)))
    split = np.array([splits.index(name) for name in split_of])[which]
    place = np.array(sorted(range(len(names)), key=names.__getitem__))
    order = place[np.lexsort((targets[place], split[place]))]
    columns = dict(
        shard=which[order],
        offsets=np.concatenate([shard.offsets for shard in shards])[order],
        file_sizes=np.concatenate([shard.sizes for shard in shards])[order],
        checks=np.concatenate([shard.checks for shard in shards])[order],
        targets=targets[order],
    )
    lengths = np.array([len(names[row]) for row in order], np.int32)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    members = Paths(b"", b"".join(names[row] for row in order), starts, lengths)
    rows = {name: np.flatnonzero(split[order] == place) for place, name in enumerate(splits)}
    return Shards([shard.path for shard in shards], columns, members, rows, label_names)

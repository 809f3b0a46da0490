"""The index of a shard: its images' names and places in the tar file, and their labels.

An example is the members of one key, the part of their names before the first dot of the file
name: KEY.jpg with KEY.cls, KEY.json or KEY.txt, as WebDataset writes them. The index is made by
one pass over the headers and kept, see `cache`.
"""

import dataclasses
import json
import os
import zlib

import numpy as np

from vit_jax.data.sources import cache, record_files
from vit_jax.data.sources.folder import EXTENSIONS
from vit_jax.data.sources.record_files import ReadAt
from vit_jax.data.sources.shards import storage, tar
from vit_jax.errors import InputError
from vit_jax.text import shown, some

ENDING = ".tar"
SAMPLE = 64  # bytes in the middle of an image that tell it from others of the same name and size
_VERSION = 1
_IMAGES = frozenset(ending[1:] for ending in EXTENSIONS)
_LABELS = ("cls", "json", "txt")  # the first that is there holds the label
_KEPT_FROM = 500  # images; fewer are indexed faster than another file is read
_LONGEST = 1000  # bytes of a class name
_MAX_JSON = 2**20


@dataclasses.dataclass(frozen=True)
class Shard:
    """The images of a tar file, in its order.

    Attributes:
      path: of the file.
      offsets, sizes: place of each image in bytes, int64 (n,).
      checks: checksum of the bytes in its middle, see `check`, uint32 (n,).
      names: name of its member, each.
      labels: the different labels, as text.
      codes: number of each image's label among `labels`, int32 (n,).
    """

    path: str
    offsets: np.ndarray
    sizes: np.ndarray
    checks: np.ndarray
    names: list[bytes]
    labels: list[str]
    codes: np.ndarray


def check(image: bytes) -> int:
    """The checksum of the bytes in the middle of an image."""
    place = _middle(len(image))
    return zlib.crc32(image[place : place + SAMPLE])


def _middle(size: int) -> int:
    return max(0, size - SAMPLE) // 2


def open_shard(path: str, field: str, cache_dir: str) -> Shard:
    """Indexes a shard, or takes the index that was kept.

    Args:
      path: of the tar file.
      field: field of KEY.json that holds the label; "": KEY.cls, else the field "label" of
        KEY.json, else KEY.txt.
      cache_dir: see `cache`.

    Raises:
      InputError: it cannot be read, is damaged, or has no image; an image without a label or
        two members of one name in it; or an image that is a link.
    """
    size, changed = storage.facts(path)
    folder, _, name = path.rpartition("/")
    remote = record_files.is_remote(path)
    found = cache.table(
        "shard",
        folder or ".",
        f"{name} {field}",
        repr((_VERSION, name, size, changed, field)).encode(),
        lambda: _table(path, size, field),
        cache_dir,
        least=0 if remote else min(_KEPT_FROM, cache.SMALL),
    )
    text, ends = found["text"].tobytes(), np.cumsum(found["lengths"]).tolist()
    names = [text[start:stop] for start, stop in zip([0, *ends], ends)]
    labels = json.loads(found["labels"].tobytes())
    return Shard(
        path, found["offsets"], found["sizes"], found["checks"], names, labels, found["codes"]
    )


@dataclasses.dataclass
class _Example:
    """What was found of a key."""

    image: tar.Member | None = None
    check: int = 0
    rank: int = len(_LABELS)
    label: str | InputError = ""


def _table(path: str, size: int, field: str) -> cache.Table:
    def read_at(length: int, offset: int) -> bytes:
        return storage.read(path, length, offset)

    if record_files.is_remote(path):
        read_at(1, 0)  # refuses a server that sends whole files
        return _indexed(path, record_files.by_blocks(read_at), size, field)
    try:
        with record_files.reading(path) as read_local:
            return _indexed(path, read_local, size, field)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _indexed(path: str, read_at: ReadAt, size: int, field: str) -> cache.Table:
    """Reads all headers, the labels, and a few bytes of each image."""
    examples: dict[str, _Example] = {}
    seen: set[str] = set()
    others: dict[str, None] = {}
    for member in tar.members(path, read_at, size):
        key, ending = _key(member.name)
        if ending not in _IMAGES and ending not in _LABELS:
            others[ending] = None
            continue
        if not key:
            continue
        if member.name in seen:
            raise InputError(f"{path}: two members are named {member.name}")
        seen.add(member.name)
        if member.link:
            raise InputError(
                f"{path}: {member.name} is a {member.link} link, which is not followed; write "
                "the tar with --dereference --hard-dereference"
            )
        example = examples.setdefault(key, _Example())
        if ending in _IMAGES:
            if example.image:
                raise InputError(
                    f"{path}: key {key} has two images, {example.image.name} and {member.name}"
                )
            example.image = member
            where = member.offset + _middle(member.size)
            example.check = zlib.crc32(read_at(min(SAMPLE, member.size), where))
        elif (rank := _LABELS.index(ending)) < example.rank:
            try:
                label = _label(path, member, ending, field, read_at)
            except InputError as error:
                example.rank, example.label = rank, error
            else:
                if label is not None:
                    example.rank, example.label = rank, label
    return _columns(path, examples, field, list(others))


def _key(name: str) -> tuple[str, str]:
    """Key and ending of a member: "a/b.seg.png" is a/b and seg.png; hidden files have no key."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return (folder + slash + stem if stem else ""), ending.lower()


def _label(path: str, member: tar.Member, ending: str, field: str, read_at: ReadAt) -> str | None:
    """The label in a member; None if it has none, as other files may have one.

    Raises:
      InputError: what it holds is no label.
    """
    if field and ending != "json":
        return None
    limit = _MAX_JSON if ending == "json" else _LONGEST
    what = f"{path}: {member.name}"
    if member.size > limit:
        raise InputError(f"{what} holds {member.size:,} bytes, which is no label")
    content = read_at(member.size, member.offset)
    try:
        found = content.decode() if ending != "json" else json.loads(content)
    except (ValueError, RecursionError):
        raise InputError(f"{what} is not {'JSON' if ending == 'json' else 'text'}") from None
    if ending != "json":
        return _checked(found.strip(), what)
    wanted = field or "label"
    if not isinstance(found, dict) or wanted not in found:
        if not field:
            return None
        there = f"; it has {some(sorted(map(str, found)))}" if isinstance(found, dict) else ""
        raise InputError(f"{what} has no field {field!r}{there}")
    value = found[wanted]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{what}: {wanted} is {shown(value)}; a label is a class's number or name")
    return _checked(shown(value, 400) if isinstance(value, int) else value.strip(), what)


def _checked(label: str, what: str) -> str:
    if not label:
        raise InputError(f"{what} is empty")
    if len(label) > _LONGEST or "\n" in label or "\r" in label:
        raise InputError(f"{what} holds several lines or a long text, which is no class name")
    if label.startswith("-") and label[1:].isdecimal():
        raise InputError(f"{what} is {label}; classes are numbered from 0")
    return str(int(label)) if label.isascii() and label.isdecimal() else label


def _columns(
    path: str, examples: dict[str, _Example], field: str, others: list[str]
) -> cache.Table:
    """The table of an index.

    Raises:
      InputError: no image, or one without a label.
    """
    images, labels = [], []
    for key, example in examples.items():
        if example.image is None:
            continue
        if isinstance(example.label, InputError):
            raise example.label
        if example.rank == len(_LABELS):
            where = f'{key}.json with "{field}"' if field else (
                f'{key}.cls, {key}.json with "label" (or ?label=FIELD), or {key}.txt'
            )  # fmt: skip
            raise InputError(f"{path}: key {key} has an image and no label: {where}")
        images.append((example.image, example.check))
        labels.append(example.label)
    if not images:
        held = f"; it holds {some([f'KEY.{ending}' for ending in others])}" if others else ""
        raise InputError(f"{path}: no images in it, such as KEY.jpg with KEY.cls{held}")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    names = [os.fsencode(member.name) for member, _ in images]
    return dict(
        offsets=np.array([member.offset for member, _ in images], np.int64),
        sizes=np.array([member.size for member, _ in images], np.int64),
        checks=np.array([found for _, found in images], np.uint32),
        lengths=np.array([len(name) for name in names], np.int32),
        text=np.frombuffer(b"".join(names), np.uint8),
        labels=np.frombuffer(json.dumps(list(numbers)).encode(), np.uint8),
        codes=np.array([numbers[label] for label in labels], np.int32),
    )

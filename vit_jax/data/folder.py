"""Folders of image files: DIR/split/class/image, or DIR/class/image with slices."""

import dataclasses
import os
from collections.abc import Iterable

import numpy as np

from vit_jax.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


@dataclasses.dataclass(frozen=True)
class Paths:
    """Many file names in little memory: one byte string and where each name starts."""

    root: bytes
    text: bytes
    starts: np.ndarray  # int64 (n,)
    lengths: np.ndarray  # int32 (n,)

    @classmethod
    def of(cls, root: str, names: Iterable[bytes]) -> "Paths":
        names = list(names)
        lengths = np.array([len(name) for name in names], np.int32)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        return cls(os.fsencode(root), b"".join(names), starts, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes:
        start = self.starts[row]
        return os.path.join(self.root, self.text[start : start + self.lengths[row]])


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of one split and the class of each."""

    paths: Paths
    targets: np.ndarray  # int32 (n,)

    def take(self, rows: np.ndarray) -> "Listing":
        starts, lengths = self.paths.starts[rows], self.paths.lengths[rows]
        paths = dataclasses.replace(self.paths, starts=starts, lengths=lengths)
        return Listing(paths, self.targets[rows])

    def join(self, others: list["Listing"]) -> "Listing":
        """This listing followed by others of the same root."""
        listings = [self, *others]
        shifts = np.cumsum([0] + [len(listing.paths.text) for listing in listings[:-1]])
        starts = [listing.paths.starts + shift for listing, shift in zip(listings, shifts)]
        paths = Paths(
            self.paths.root,
            b"".join(listing.paths.text for listing in listings),
            np.concatenate(starts),
            np.concatenate([listing.paths.lengths for listing in listings]),
        )
        return Listing(paths, np.concatenate([listing.targets for listing in listings]))


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds: listings by split, class names sorted."""

    splits: dict[str, Listing]
    label_names: list[str]


def scan(root: str) -> Folder:
    """Lists the images under `root`, sorted by class and name.

    A folder of class folders is one split "train"; a folder of folders of class folders
    has a split a folder. The classes of all splits are those of the first, by name.

    Raises:
      InputError: no such directory, not readable, no images, an empty class folder, or
        splits with different classes.
    """
    children = _subfolders(root)
    if not children:
        raise InputError(f"folder:{root}: no class folders in it; expected class/image files")
    if any(_images(os.path.join(root, child)) for child in children):
        tree = {"train": children}
        prefix = {"train": ""}
    else:
        tree = {child: _subfolders(os.path.join(root, child)) for child in children}
        tree = {split: classes for split, classes in tree.items() if classes}
        prefix = {split: split for split in tree}
    if not tree:
        raise InputError(
            f"folder:{root}: no images found; expected class/image or split/class/image "
            f"with one of {', '.join(EXTENSIONS)}"
        )
    label_names = _common_classes(root, tree)
    splits = {
        split: _list_split(root, prefix[split], classes, label_names)
        for split, classes in tree.items()
    }
    return Folder(splits, label_names)


def _common_classes(root: str, tree: dict[str, list[str]]) -> list[str]:
    """All splits' classes; splits may lack some of the training split's, not add any."""
    first = "train" if "train" in tree else min(tree)
    for split, classes in tree.items():
        extra = sorted(set(classes) - set(tree[first]))
        if extra:
            raise InputError(f"folder:{root}: class {extra[0]!r} is in {split} but not in {first}")
    return tree[first]


def _list_split(root: str, prefix: str, classes: list[str], label_names: list[str]) -> Listing:
    number = {name: i for i, name in enumerate(label_names)}
    names, targets = [], []
    for name in classes:
        inside = os.path.join(prefix, name)
        images = _images(os.path.join(root, inside))
        if not images:
            raise InputError(
                f"{os.path.join(root, inside)}: class folder without images; "
                "add some or remove the folder"
            )
        names += [os.fsencode(os.path.join(inside, image)) for image in images]
        targets += [number[name]] * len(images)
    return Listing(Paths.of(root, names), np.array(targets, np.int32))


def _entries(path: str) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except FileNotFoundError:
        raise InputError(f"folder:{path}: no such directory") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be listed: {error.strerror}") from None


def _subfolders(path: str) -> list[str]:
    return [entry.name for entry in _entries(path) if entry.is_dir()]


def _images(path: str) -> list[str]:
    return [
        entry.name
        for entry in _entries(path)
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file()
    ]

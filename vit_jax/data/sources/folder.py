"""Folders of image files: DIR/split/class/image, or DIR/class/image with slices."""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from vit_jax.data.sources import cache
from vit_jax.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


@dataclasses.dataclass(frozen=True)
class Paths:
    """A compact list of file names: one byte string and the position of each name."""

    root: bytes
    text: bytes
    starts: np.ndarray  # int64 (n,)
    lengths: np.ndarray  # int32 (n,)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> bytes:
        return os.path.join(self.root, self.name(row))

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))

    def name(self, row: int) -> bytes:
        """The path below `root`."""
        start = self.starts[row]
        return self.text[start : start + self.lengths[row]]


@dataclasses.dataclass(frozen=True)
class Listing:
    """Image files with their classes and sizes in bytes."""

    paths: Paths
    targets: np.ndarray  # int32 (n,)
    sizes: np.ndarray  # int64 (n,)

    def take(self, rows: np.ndarray) -> "Listing":
        starts, lengths = self.paths.starts[rows], self.paths.lengths[rows]
        paths = dataclasses.replace(self.paths, starts=starts, lengths=lengths)
        return Listing(paths, self.targets[rows], self.sizes[rows])


@dataclasses.dataclass(frozen=True)
class Folder:
    """The content of a folder: all files, the rows of each split, sorted class names."""

    files: Listing
    splits: dict[str, np.ndarray]
    label_names: list[str]


def scan(root: str, cache_dir: str = "") -> Folder:
    """Lists the images under `root`, sorted by split, class and name.

    A folder of class folders is one split "train"; a folder of folders of class folders
    has a split a folder. The list is kept (see `cache`) until a class folder changes;
    images overwritten in place are not noticed.

    Raises:
      InputError: no such directory, not readable, no images, an empty class folder, or a
        class that the training split lacks.
    """
    tree = _tree(root)
    label_names = _classes(root, tree)
    folders = [os.path.join(split or "", name) for split in tree for name in tree[split]]
    changed = [os.stat(os.path.join(root, folder)).st_mtime_ns for folder in folders]
    key = repr(list(zip(folders, changed))).encode()
    found = cache.table("files", root, "", key, lambda: _listed(root, folders), cache_dir)

    number = {name: i for i, name in enumerate(label_names)}
    classes = np.array([number[name] for names in tree.values() for name in names], np.int32)
    lengths = found["lengths"]
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    paths = Paths(os.fsencode(root), found["text"].tobytes(), starts, lengths)
    files = Listing(paths, np.repeat(classes, found["counts"]), found["sizes"])
    return Folder(files, _split_rows(tree, found["counts"]), label_names)


def _split_rows(tree: dict[str | None, list[str]], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the files of each split; `counts` are files per class folder."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    last = np.cumsum([len(names) for names in tree.values()])
    return {
        split or "train": np.arange(ends[stop - len(names)], ends[stop])
        for (split, names), stop in zip(tree.items(), last)
    }


def _tree(root: str) -> dict[str | None, list[str]]:
    """Class folders by split; the one split of a folder without split folders is None."""
    children = _subfolders(root)
    if not children:
        raise InputError(f"folder:{root}: no class folders in it; expected class/image files")
    if any(_images(os.path.join(root, child)) for child in children):
        return {None: children}
    tree: dict[str | None, list[str]] = {}
    for child in children:
        if classes := _subfolders(os.path.join(root, child)):
            tree[child] = classes
    if not tree:
        raise InputError(
            f"folder:{root}: no images found; expected class/image or split/class/image "
            f"with one of {', '.join(EXTENSIONS)}"
        )
    return tree


def _classes(root: str, tree: dict[str | None, list[str]]) -> list[str]:
    """The classes of the training split; other splits may have fewer, but no others."""
    first = "train" if "train" in tree else next(iter(tree))
    for split, classes in tree.items():
        if extra := sorted(set(classes) - set(tree[first])):
            raise InputError(f"folder:{root}: class {extra[0]!r} is in {split} but not in {first}")
    return tree[first]


def _listed(root: str, folders: list[str]) -> cache.Table:
    """Names below `root`, as one text, and sizes of the images in all class folders."""
    names, sizes, counts = [], [], []
    for folder in folders:
        images = _images(os.path.join(root, folder))
        if not images:
            raise InputError(
                f"{os.path.join(root, folder)}: class folder without images; "
                "add some or remove the folder"
            )
        names += [os.fsencode(os.path.join(folder, image.name)) for image in images]
        sizes += [image.stat().st_size for image in images]
        counts.append(len(images))
    return dict(
        lengths=np.array([len(name) for name in names], np.int32),
        text=np.frombuffer(b"".join(names), np.uint8),
        sizes=np.array(sizes, np.int64),
        counts=np.array(counts, np.int64),
    )


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


def _images(path: str) -> list[os.DirEntry]:
    return [
        entry
        for entry in _entries(path)
        if entry.name.lower().endswith(EXTENSIONS) and entry.is_file()
    ]

"""Folders of image files: DIR/split/class/image, or DIR/class/image with slices."""

import collections
import dataclasses
import functools
import json
import logging
import os
from collections.abc import Iterator

import numpy as np

from vit_jax.data.sources import cache
from vit_jax.errors import InputError
from vit_jax.text import some

log = logging.getLogger(__name__)

EXTENSIONS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm",
    ".avif", ".heic", ".heif", ".hif", ".jxl",
)  # fmt: skip
# A folder of such a name that holds folders is a split.
SPLITS = (
    "train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev",
)  # fmt: skip
NESTED = ("no", "top", "path")
_VERSION = 3  # of lists in the cache
_LAYOUTS = "expected class/image or split/class/image"


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

    def take(self, rows: np.ndarray) -> "Paths":
        return dataclasses.replace(self, starts=self.starts[rows], lengths=self.lengths[rows])


@dataclasses.dataclass(frozen=True)
class Listing:
    """Image files with their classes and sizes in bytes."""

    paths: Paths
    targets: np.ndarray  # int32 (n,)
    sizes: np.ndarray  # int64 (n,)

    def take(self, rows: np.ndarray) -> "Listing":
        return Listing(self.paths.take(rows), self.targets[rows], self.sizes[rows])


@dataclasses.dataclass(frozen=True)
class Folder:
    """The content of a folder: all files, the rows of each split, sorted class names."""

    files: Listing
    splits: dict[str, np.ndarray]
    label_names: list[str]


Tree = dict[str | None, list[str]]  # class folders by split; None: there are no split folders


def scan(
    root: str, cache_dir: str = "", *, nested: str = "no", follow_links: bool = False
) -> Folder:
    """Lists the images under `root`, sorted by split, class and name.

    A folder of class folders is one split "train"; a folder of folders of class folders
    has a split per folder. The list is kept (see `cache`) until a class folder changes;
    images overwritten in place are not noticed. What is left out is counted in one line.

    Args:
      root: folder of the data.
      cache_dir: see `cache`.
      nested: "no": images lie in class folders; "top": also in folders below them; "path":
        each folder that holds images is a class, named by its path.
      follow_links: whether to follow symbolic links that leave `root`.

    Raises:
      InputError: no such directory, not readable, no images, an empty class folder, or a
        class that the training split lacks.
    """
    lister = Lister(root, nested, follow_links)
    tree = _tree(lister)
    label_names = _classes(root, tree)
    folders = [os.path.join(split or "", name) for split in tree for name in tree[split]]
    if nested == "top":  # the folders below are not known without listing them
        found = _listed(lister, folders)
    else:
        changed = [os.stat(os.path.join(root, folder)).st_mtime_ns for folder in folders]
        key = repr((_VERSION, nested, follow_links, list(zip(folders, changed)))).encode()
        found = cache.table("files", root, "", key, lambda: _listed(lister, folders), cache_dir)
    report(root, lister.left_out + collections.Counter(json.loads(found["left_out"].tobytes())))
    if len(label_names) == 1:
        _say_once(
            f"folder:{root} has a single class, {label_names[0]!r}; to tell classes apart, put "
            "the images into a folder per class"
        )

    number = {name: i for i, name in enumerate(label_names)}
    classes = np.array([number[name] for names in tree.values() for name in names], np.int32)
    lengths = found["lengths"]
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    paths = Paths(os.fsencode(root), found["text"].tobytes(), starts, lengths)
    files = Listing(paths, np.repeat(classes, found["counts"]), found["sizes"])
    return Folder(files, _split_rows(tree, found["counts"]), label_names)


def _split_rows(tree: Tree, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the files of each split; `counts` are files per class folder."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    last = np.cumsum([len(names) for names in tree.values()])
    return {
        split or "train": np.arange(ends[stop - len(names)], ends[stop])
        for (split, names), stop in zip(tree.items(), last)
    }


class Lister:
    """Lists folders below a root, and counts what it leaves out.

    Attributes:
      left_out: number of things passed over, by kind.
    """

    def __init__(self, root: str, nested: str, follow_links: bool):
        self.root, self.nested, self.follow_links = root, nested, follow_links
        self.left_out: collections.Counter[str] = collections.Counter()
        self._real = os.path.join(os.path.realpath(root), "")

    def entries(self, folder: str, *, count: bool = True) -> tuple[list[str], list[os.DirEntry]]:
        """Names of the folders, and the images, directly in `folder`, a path below the root.

        Folders named by numbers only are sorted as numbers. With `count`, other things are
        added to `left_out`.
        """
        folders, images = [], []
        left_out: collections.Counter[str] = collections.Counter()
        for entry in _entries(os.path.join(self.root, folder) if folder else self.root):
            if problem := self._link_problem(entry):
                left_out[problem] += 1
            elif entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
                images.append(entry)
            else:
                left_out[f"{os.path.splitext(entry.name)[1].lower() or 'other'} files"] += 1
        if count:
            self.left_out += left_out
        return sort_classes(folders), images

    def _link_problem(self, entry: os.DirEntry) -> str:
        """The kind of a symbolic link that is not followed; "" for everything else."""
        if not entry.is_symlink():
            return ""
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):
            return "broken links"
        inside = os.path.join(target, "").startswith(self._real)
        return "" if inside or self.follow_links else _LEAVING

    def below(self, folder: str, *, count: bool) -> Iterator[tuple[str, list[os.DirEntry]]]:
        """A folder and all folders below it, each with its images; never one of them twice."""
        seen, waiting = set(), [folder]
        while waiting:
            place = waiting.pop()
            if (real := os.path.realpath(os.path.join(self.root, place))) in seen:
                continue
            seen.add(real)
            folders, images = self.entries(place, count=count)
            yield place, images
            waiting += [os.path.join(place, name) for name in reversed(folders)]

    def has_images(self, folder: str) -> bool:
        return any(images for _, images in self.below(folder, count=False))


_LEAVING = "links that leave the folder (data.follow_links=True reads them)"
_DEEPER = "images in folders below class folders (data.nested='top' or 'path' reads them)"


def sort_classes(names: list[str]) -> list[str]:
    """Sorted names of classes: numbers as numbers if all are, else in alphabetical order."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _tree(lister: Lister) -> Tree:
    """Class folders by split; the one split of a folder without split folders is None."""
    root = lister.root
    children, loose = lister.entries("")
    lister.left_out["images beside class folders"] += len(loose)
    if not children:
        problem = "no class folders in it"
        if kinds := _kinds(lister.left_out):
            problem += f", but {kinds}"
        raise InputError(f"folder:{root}: {problem}; {_LAYOUTS}")
    inside = {child: functools.partial(lister.entries, child, count=False) for child in children}
    has_split = any(child.lower() in SPLITS and inside[child]()[0] for child in children)
    if not has_split and any(inside[child]()[1] for child in children):
        return {None: _class_folders(lister, "", children)}
    tree: Tree = {}
    for child in children:
        classes, loose = inside[child]()
        known = child.lower() in SPLITS
        if classes and (known or any(lister.has_images(f"{child}/{name}") for name in classes)):
            tree[child] = _class_folders(lister, child, classes)
            lister.left_out["images beside class folders"] += len(loose)
        elif loose:
            kind = f"images of {child}, which has no class folders and so no labels"
            lister.left_out[kind] += len(loose)
    if not tree:
        raise InputError(
            f"folder:{root}: no images found; {_LAYOUTS} with one of {', '.join(EXTENSIONS)}"
        )
    return tree


def _class_folders(lister: Lister, split: str, names: list[str]) -> list[str]:
    """The classes of a split: the given folders, or with nested="path" all that hold images."""
    if lister.nested != "path":
        return names
    start = os.path.join(split, "")
    return [
        place.removeprefix(start)
        for name in names
        for place, images in lister.below(start + name, count=False)
        if images
    ]


def _classes(root: str, tree: Tree) -> list[str]:
    """The classes of the training split; other splits may have fewer, but no others."""
    first = "train" if "train" in tree else next(iter(tree))
    for split, classes in tree.items():
        if extra := sort_classes(list(set(classes) - set(tree[first]))):
            raise InputError(f"folder:{root}: class {extra[0]!r} is in {split} but not in {first}")
    return tree[first]


def _listed(lister: Lister, folders: list[str]) -> cache.Table:
    """Names below the root, as one text, and sizes of the images in all class folders."""
    names, sizes, counts = [], [], []
    before, lister.left_out = lister.left_out, collections.Counter()
    for folder in folders:
        if lister.nested == "top":
            images = [image for _, found in lister.below(folder, count=True) for image in found]
        else:
            below, images = lister.entries(folder)
            if lister.nested == "no":
                lister.left_out[_DEEPER] += sum(
                    len(found)
                    for name in below
                    for _, found in lister.below(f"{folder}/{name}", count=False)
                )
        if not images:
            raise InputError(_empty(lister, folder))
        prefix = len(os.path.join(lister.root, ""))
        names += [os.fsencode(image.path[prefix:]) for image in images]
        sizes += [image.stat().st_size for image in images]
        counts.append(len(images))
    left_out, lister.left_out = lister.left_out, before
    return dict(
        lengths=np.array([len(name) for name in names], np.int32),
        text=np.frombuffer(b"".join(names), np.uint8),
        sizes=np.array(sizes, np.int64),
        counts=np.array(counts, np.int64),
        left_out=np.frombuffer(json.dumps(left_out).encode(), np.uint8),
    )


def _empty(lister: Lister, folder: str) -> str:
    """A message about a class folder without images."""
    path = os.path.join(lister.root, folder)
    there, _ = lister.entries(folder, count=False)
    if any(lister.has_images(f"{folder}/{name}") for name in there):
        return (
            f"{path}: class folder without images, but with folders that hold images ("
            f"{some(there)}); set data.nested='path' to make each of them a class, or "
            f"data.nested='top' to make {os.path.basename(folder)!r} the class of all"
        )
    kinds = _kinds(lister.left_out)
    held = f" (it holds {kinds})" if kinds else ""
    return (
        f"{path}: class folder without images{held}; the layout is read as "
        f"{'split/' if os.path.dirname(folder) else ''}class/image: add some or remove the folder"
    )


def _kinds(left_out: collections.Counter[str]) -> str:
    return some([f"{count:,} {kind}" for kind, count in left_out.most_common() if count], 6)


def report(root: str, left_out: collections.Counter[str]) -> None:
    """Logs what is left out of a folder, once in a process."""
    if kinds := _kinds(left_out):
        _say_once(f"folder:{root}: not read: {kinds}")


@functools.lru_cache(maxsize=256)
def _say_once(line: str) -> None:
    """Logs a line, once in a process: training and evaluations list the same folder."""
    log.warning("%s", line)


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

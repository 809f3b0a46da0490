"""ImageNet as Kaggle ships it, the challenge imagenet-object-localization-challenge.

ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_18.JPEG
ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG      (not in class folders)
LOC_val_solution.csv                                      (the labels of val)
LOC_synset_mapping.txt                                    (order and names of the classes)
"""

import collections
import csv
import os

from vit_jax.data.sources import cache
from vit_jax.data.sources.folder import Folder, Lister, report
from vit_jax.data.sources.layouts.rows import Found, Rows
from vit_jax.errors import InputError
from vit_jax.text import reason, some

_IMAGES = os.path.join("ILSVRC", "Data", "CLS-LOC")
_SOLUTION, _MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_VERSION = 1
_MAX_BYTES = 2**26


def is_root(root: str) -> bool:
    """Whether a folder is the top of Kaggle's ImageNet."""
    return os.path.isdir(os.path.join(root, _IMAGES, "train"))


def scan(root: str, cache_dir: str = "", *, follow_links: bool = False) -> Folder:
    """Lists the splits train and val; classes in the order of LOC_synset_mapping.txt.

    Args:
      root: folder that holds ILSVRC.
      cache_dir: see `cache`.
      follow_links: whether to follow symbolic links that leave the folder of the images.

    Raises:
      InputError: a class without a folder or the reverse, a line that is not as Kaggle wrote
        it, or an image of val without a label.
    """
    images = os.path.join(root, _IMAGES)
    lister = Lister(images, "no", follow_links)
    folders, _ = lister.entries("train")
    names = _mapping(root) or {folder: folder for folder in folders}
    if lacking := sorted(names.keys() ^ set(folders)):
        one = "folder" if lacking[0] in names else f"line of {_MAPPING}"
        raise InputError(
            f"{images}/train: {len(lacking)} of its classes have no {one}, such as {lacking[0]}; "
            "unpack it completely"
        )
    solution = _solution(root, names, lister)
    below, flat = ([], []) if solution is None else lister.entries("val", count=False)
    places = [f"train/{name}" for name in folders] + ["val"] * bool(flat)
    places += [f"val/{name}" for name in below if not flat]
    changed = [os.stat(os.path.join(images, place)).st_mtime_ns for place in places]
    key = repr((_VERSION, follow_links, list(zip(places, changed)), _stamp(root))).encode()
    table = cache.table(
        "imagenet", images, "", key, lambda: _listed(lister, places, solution or {}), cache_dir
    )
    found = Found.of(table)
    report(root, lister.left_out + collections.Counter(found.left_out))
    number = {synset: place for place, synset in enumerate(names)}
    return found.folder(images, number, _unique(names))


def _stamp(root: str) -> int:
    path = os.path.join(root, _SOLUTION)
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0


def _lines(root: str, name: str) -> list[str] | None:
    """The lines of a file beside the images; None if it is not there."""
    path = os.path.join(root, name)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    if len(text) > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES:,} bytes")
    return text.splitlines()


def _mapping(root: str) -> dict[str, str]:
    """Names of the synsets, in the order of the classes; {} without the file."""
    names: dict[str, str] = {}
    for number, line in enumerate(_lines(root, _MAPPING) or [], 1):
        synset, _, name = line.strip().partition(" ")
        if not synset:
            continue
        if synset in names or not name.strip():
            raise InputError(
                f"{os.path.join(root, _MAPPING)}, line {number}: expected a synset of its own and "
                "its name, such as n01440764 tench, Tinca tinca"
            )
        names[synset] = name.strip()
    return names


def _unique(names: dict[str, str]) -> list[str]:
    """Class names; two of ImageNet's have the same (crane), and get their synset."""
    count = collections.Counter(names.values())
    return [f"{name} ({synset})" if count[name] > 1 else name for synset, name in names.items()]


def _solution(root: str, names: dict[str, str], lister: Lister) -> dict[str, str] | None:
    """The synset of each image of val by its name; None if there is no val to read."""
    val = os.path.join(lister.root, "val")
    if not os.path.isdir(val):
        return None
    lines = _lines(root, _SOLUTION)
    if lines is None:
        folders, loose = lister.entries("val", count=False)
        if folders and not loose:
            return {}
        lister.left_out[f"images of val, as {_SOLUTION} with their labels is missing"] += len(loose)
        return None
    found = {}
    for number, row in enumerate(csv.reader(lines), 1):
        if not row or (number == 1 and row[0] == "ImageId"):
            continue
        synset = row[1].split()[0] if len(row) > 1 and row[1].strip() else ""
        if synset not in names:
            raise InputError(
                f"{os.path.join(root, _SOLUTION)}, line {number}: {synset!r} is no class; expected "
                "ILSVRC2012_val_00048981,n03995372 85 1 499 272"
            )
        found[row[0]] = synset
    return found


def _listed(lister: Lister, places: list[str], solution: dict[str, str]) -> cache.Table:
    rows = Rows(["train", "val"])
    before, lister.left_out = lister.left_out, type(lister.left_out)()
    for place in places:
        split, _, synset = place.partition("/")
        _, images = lister.entries(place)
        if not images:
            raise InputError(f"{os.path.join(lister.root, place)}: class folder without images")
        if synset:
            labels = [synset] * len(images)
        else:
            stems = [os.path.splitext(image.name)[0] for image in images]
            if unknown := [stem for stem in stems if stem not in solution]:
                raise InputError(
                    f"{os.path.join(lister.root, place)}: {len(unknown)} images have no label in "
                    f"{_SOLUTION}: {some(unknown)}"
                )
            labels = [solution[stem] for stem in stems]
        rows.add(split == "val", place, images, labels)
    rows.left_out, lister.left_out = dict(lister.left_out), before
    return rows.table()

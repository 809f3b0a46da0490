"""Folders without class folders, whose files carry the class in their name.

`folder:DIR?label=REGEX` searches each file's name for a regular expression with one group, which
is the class: `([^.]+)\\.\\d+` for cat.0.jpg, `(.+)_\\d+` for Abyssinian_12.jpg.
"""

import os
import re

from vit_jax.data.sources import cache
from vit_jax.data.sources.folder import SPLITS, Folder, Lister, report, sort_classes
from vit_jax.data.sources.layouts.rows import Found, Rows
from vit_jax.errors import InputError
from vit_jax.text import some

_VERSION = 1


def scan(
    root: str, pattern: str, cache_dir: str = "", *, nested: str = "no", follow_links: bool = False
) -> Folder:
    """Lists the images directly in `root`, or in its folders named as splits.

    Images whose name does not match are counted and named in one line.

    Args:
      root: folder of the data.
      pattern: regular expression with one group, the class.
      cache_dir: see `cache`.
      nested: "no", or "top": also images in folders below.
      follow_links: whether to follow symbolic links that leave `root`.

    Raises:
      InputError: a bad pattern, no images, no name that matches, or a class that the training
        split lacks.
    """
    regex = _compiled(root, pattern)
    if nested == "path":
        raise InputError(
            "data.nested='path' names classes by folders; with ?label= they are named by files"
        )
    lister = Lister(root, nested, follow_links)
    places = _places(lister)
    if nested == "top":  # the folders below are not known without listing them
        table = _listed(lister, places, regex)
    else:
        changed = [os.stat(os.path.join(root, place)).st_mtime_ns for place in places.values()]
        key = repr((_VERSION, pattern, follow_links, list(places), changed)).encode()
        table = cache.table(
            "flat", root, pattern, key, lambda: _listed(lister, places, regex), cache_dir
        )
    found = Found.of(table)
    report(root, lister.left_out + type(lister.left_out)(found.left_out))
    splits = {name: labels for name, labels in found.of_split.items() if labels}
    first = "train" if "train" in splits else next(iter(splits))
    for split, labels in splits.items():
        if extra := sort_classes(list(set(labels) - set(splits[first]))):
            raise InputError(f"folder:{root}: class {extra[0]!r} is in {split} but not in {first}")
    names = sort_classes(splits[first])
    return found.folder(root, {name: number for number, name in enumerate(names)}, names)


def _compiled(root: str, pattern: str) -> re.Pattern:
    try:
        regex = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"folder:{root}?label={pattern}: no regular expression: {error}") from None
    if regex.groups != 1:
        raise InputError(
            f"folder:{root}?label={pattern}: it has {regex.groups} groups; the class is one, in "
            r"parentheses, e.g. (.+)_\d+ for Abyssinian_12.jpg; others begin with (?:"
        )
    return regex


def _places(lister: Lister) -> dict[str, str]:
    """The folder of each split, below the root."""
    children, loose = lister.entries("")
    splits = [child for child in children if child.lower() in SPLITS]
    held = {child: next((True for _, x in _images(lister, child) if x), False) for child in splits}
    if any(held.values()):
        lister.left_out["images beside the folders of splits"] += len(loose)
        return {child: child for child in splits if held[child]}
    if not loose and lister.nested != "top":
        raise InputError(
            f"folder:{lister.root}: no images directly in it, or in a folder named as a split "
            "(train, val, ...); ?label= reads those, and with data.nested='top' those below"
        )
    return {"train": ""}


def _images(lister: Lister, place: str, *, count: bool = False):
    if lister.nested == "top":
        yield from lister.below(place, count=count)
    else:
        yield place, lister.entries(place, count=count)[1]


def _listed(lister: Lister, places: dict[str, str], regex: re.Pattern) -> cache.Table:
    rows, odd = Rows(list(places)), []
    before, lister.left_out = lister.left_out, type(lister.left_out)()
    for number, place in enumerate(places.values()):
        for folder, images in _images(lister, place, count=bool(place)):
            matches = [(image, regex.search(image.name)) for image in images]
            good = [(image, match[1]) for image, match in matches if match and match[1]]
            odd += [image.name for image, match in matches if not (match and match[1])]
            rows.add(number, folder, [image for image, _ in good], [label for _, label in good])
    left_out, lister.left_out = lister.left_out, before
    where = f"folder:{lister.root}?label={regex.pattern}"
    if not rows.names:
        what = f"no image's name matches, such as {some(odd)}" if odd else "no images"
        raise InputError(f"{where}: {what}")
    if odd:
        left_out[f"images whose name does not match {regex.pattern} ({some(odd)})"] = len(odd)
    rows.left_out = dict(left_out)
    return rows.table()

"""Emoji by several vendors as a folder of images: the same pictures, drawn by other hands.

    python benchmarks/emoji.py photos/emoji [--train=apple,google] [--test=twitter] [--dev=facebook]

Downloads npm's packages emoji-datasource-VENDOR with `npm pack` into DIR-packages, once, and
writes DIR/train/CATEGORY/VENDOR-NAME.png, DIR/val/... and, if asked for, DIR/dev/... on white, at
64 pixels. Nine categories; some 1,900 pictures a vendor. Vendors: apple, facebook, google, twitter.
"""

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vit_jax.errors import InputError

VERSION = "15.1.2"
VENDORS = ("apple", "facebook", "google", "twitter")
SIDE = 64  # pixels, a size that the packages have


def package(vendor: str, folder: Path) -> Path:
    """Downloads the package of a vendor, unless it is there.

    Raises:
      InputError: an unknown vendor, or npm is missing or fails.
    """
    if vendor not in VENDORS:
        raise InputError(f"unknown vendor {vendor!r}; known: {', '.join(VENDORS)}")
    path = folder / f"emoji-datasource-{vendor}-{VERSION}.tgz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.which("npm") is None:
        raise InputError(f"npm is not installed; put {path.name} of npm's registry into {folder}")
    name = f"emoji-datasource-{vendor}@{VERSION}"
    done = subprocess.run(
        ["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"npm pack {name} fails: {done.stderr.strip().splitlines()[-1:]}")
    return path


def pictures(archive: Path, vendor: str) -> Iterator[tuple[str, str, Image.Image]]:
    """The category, the name and the picture of each emoji of a vendor."""
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar if member.isfile()}

        def read(name: str) -> bytes:
            file = tar.extractfile(members[f"package/{name}"])
            assert file is not None  # it is a file
            return file.read()

        for emoji in json.loads(read("emoji.json")):
            name = f"img/{vendor}/{SIDE}/{emoji['image']}"
            if f"package/{name}" in members and emoji["category"] != "Component":
                category = re.sub(r"\W+", "-", emoji["category"])
                yield category, emoji["image"], on_white(Image.open(io.BytesIO(read(name))))


def on_white(picture: Image.Image) -> Image.Image:
    """A picture without its transparency."""
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def make(folder: Path, splits: dict[str, list[str]]) -> dict[str, int]:
    """Writes the pictures of each split's vendors; returns their numbers by split."""
    packages = folder.with_name(f"{folder.name}-packages")  # folders below DIR are splits
    counts = dict.fromkeys(splits, 0)
    for split, vendors in splits.items():
        for vendor in vendors:
            for category, name, picture in pictures(package(vendor, packages), vendor):
                place = folder / split / category
                place.mkdir(parents=True, exist_ok=True)
                picture.save(place / f"{vendor}-{name}")
                counts[split] += 1
    return counts


def main(argv: list[str] | None = None) -> int:
    """Makes the folder; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--train", default="apple,google", help="vendors (%(default)s)")
    parser.add_argument("--test", default="twitter", help="vendors (%(default)s)")
    parser.add_argument("--dev", help="vendors, to choose options by (none)")
    args = parser.parse_args(argv)
    vendors = dict(train=args.train, val=args.test) | ({"dev": args.dev} if args.dev else {})
    try:
        counts = make(args.folder, {split: names.split(",") for split, names in vendors.items()})
    except InputError as error:
        print(f"emoji.py: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{split}: {count:,} pictures" for split, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

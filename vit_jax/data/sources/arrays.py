"""Data sets that fit in memory: scikit-learn's digits, IDX files, NumPy archives."""

import dataclasses
import glob
import gzip
import importlib.util
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vit_jax.data.sources.archives import DAMAGED, MAX_EXPANSION, read_archive
from vit_jax.errors import InputError
from vit_jax.text import first_line, reason

FASHION = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip


MAX_CLASSES = 1_000_000  # a larger number is not a class


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Splits by name: (images uint8 (n, h, w, c), labels int (n,) or uint8 (n, k))."""

    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    label_names: list[str]


def load_digits(_: str = "") -> Arrays:
    """The 1797 handwritten digits of scikit-learn: 8x8 grey, one split "train".

    There is no test split; use "train[:80%]" and "train[80%:]".
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise InputError("source digits needs scikit-learn: pip install scikit-learn")
    # The file is read directly, because importing scikit-learn takes seconds.
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz"
    if file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        pixels, target = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
    else:
        from sklearn.datasets import load_digits

        pixels, target = (digits := load_digits()).images, digits.target
    images = np.round(pixels * (255 / 16)).astype(np.uint8)[..., None]
    return Arrays({"train": (images, target)}, [str(i) for i in range(10)])


def load_idx(folder: str) -> Arrays:
    """The MNIST family: {train,t10k}-{images-idx3,labels-idx1}-ubyte, gzipped or not.

    Classes of a folder whose name contains "fashion" are named after Fashion-MNIST's.
    """
    if not os.path.isdir(folder):
        raise InputError(f"idx:{folder}: no such directory{_hint(folder)}")
    splits = {}
    for split, prefix in dict(train="train", test="t10k").items():
        images = read_idx(_find(folder, prefix, "images", 3), ndim=3)
        labels = read_idx(_find(folder, prefix, "labels", 1), ndim=1)
        if len(images) != len(labels):
            raise InputError(f"{folder}: {len(images)} {split} images but {len(labels)} labels")
        if not images.size:
            raise InputError(f"{folder}: the {split} files hold no pixels")
        splits[split] = images[..., None], labels.astype(np.int32)
    count = 1 + max(int(labels.max()) for _, labels in splits.values())
    fashion = "fashion" in os.path.abspath(folder).lower() and count <= len(FASHION)
    return Arrays(splits, FASHION if fashion else [str(i) for i in range(count)])


def _hint(folder: str) -> str:
    """Where the files come from, for a folder named after Fashion-MNIST."""
    if "fashion" not in os.path.abspath(folder).lower():
        return ""
    return (
        "; Fashion-MNIST's four files are in Debian's package dataset-fashion-mnist (apt install "
        "dataset-fashion-mnist) and at https://github.com/zalandoresearch/fashion-mnist "
        "(data/fashion); name their folder with idx:DIR"
    )


def _find(folder: str, prefix: str, what: str, ndim: int) -> str:
    """The path of one IDX file; its name may use any separator and end in .gz."""
    pattern = f"{prefix}-{what}?idx{ndim}-ubyte"
    found = sorted(
        path
        for suffix in ("", ".gz")
        for path in glob.glob(os.path.join(glob.escape(folder), "*" + pattern + suffix))
    )
    if not found:
        expected = pattern.replace("?", "-")
        raise InputError(f"{folder}: no file {expected} or {expected}.gz{_hint(folder)}")
    return found[0]


def read_idx(path: str, *, ndim: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes with `ndim` dimensions.

    Raises:
      InputError: the file is no such IDX file, or truncated.
    """
    packed = path.endswith(".gz")
    start = 4 + 4 * ndim
    try:
        held = os.path.getsize(path) * (MAX_EXPANSION if packed else 1) - start
        with (gzip.open if packed else open)(path, "rb") as file:
            header = file.read(start)
            if len(header) < start or header[:4] != bytes([0, 0, 8, ndim]):
                raise InputError(f"{path}: not an IDX file of {ndim}-dimensional bytes")
            shape = struct.unpack(f">{ndim}I", header[4:])
            claimed = math.prod(shape)
            data = file.read(min(claimed, held) + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except (EOFError, zlib.error, MemoryError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from None
    if len(data) != claimed:
        found = f"{len(data)} bytes" if len(data) < claimed else "more bytes"
        raise InputError(
            f"{path}: truncated or damaged: {found} where its header says "
            f"{' x '.join(map(str, shape))}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def load_npz(path: str) -> Arrays:
    """A NumPy archive: images (n, h, w[, c]) and labels (n,) or (n, classes) by split.

    Keys are `images` and `labels` (one split, "train"), `train_images` and `train_labels`
    or `images_train` and `labels_train` for each split; `x` and `y` mean the same.
    `label_names` (class names) is optional.
    """
    data = _read_npz(path)
    names = [str(name) for name in np.ravel(data.pop("label_names", []))]
    fields: dict[str, dict[str, np.ndarray]] = {}
    for key, value in data.items():
        if match := _NPZ_KEY.fullmatch(key):
            split = match["before"] or match["after"] or "train"
            fields.setdefault(split, {})[match["field"][0].translate(_NPZ_FIELD)] = value
    splits = {split: _checked(path, split, found) for split, found in fields.items()}
    if not splits:
        raise InputError(f"npz:{path}: no images in it; its keys are {', '.join(sorted(data))}")
    count = max(_count_classes(labels) for _, labels in splits.values())
    if names and len(names) < count:
        raise InputError(f"npz:{path}: {len(names)} label_names for {count} classes")
    return Arrays(splits, names or [str(i) for i in range(count)])


def _read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an archive by key."""
    try:
        return read_archive(path)
    except FileNotFoundError:
        raise InputError(f"npz:{path}: no such file") from None
    except OSError as error:
        raise InputError(f"npz:{path}: cannot be read: {reason(error)}") from None
    except DAMAGED as error:
        raise InputError(f"npz:{path}: cannot be read: {first_line(error)}") from None


_NPZ_KEY = re.compile(r"(?:(?P<before>\w+)_)?(?P<field>images|labels|x|y)(?:_(?P<after>\w+))?")
_NPZ_FIELD = str.maketrans("il", "xy")


def _checked(path: str, split: str, found: dict[str, np.ndarray]) -> tuple:
    """Images as uint8 (n, h, w, c) and labels of one split of an archive."""
    where = f"npz:{path}: {split}"
    if found.keys() != {"x", "y"}:
        raise InputError(f"{where} has {'labels' if 'y' in found else 'images'} only")
    images, labels = found["x"], found["y"]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise InputError(
            f"{where} images are {images.dtype} {images.shape}; "
            "expected uint8 (n, height, width) or (n, height, width, 1 or 3)"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iub" or (labels < 0).any():
        raise InputError(
            f"{where} labels are {labels.dtype} {labels.shape}; expected integers from 0, "
            "(n,) or (n, classes)"
        )
    if len(images) != len(labels):
        raise InputError(f"{where} has {len(images)} images and {len(labels)} labels")
    if not images.size:
        raise InputError(f"{where} images are {images.shape}: there are no pixels")
    if labels.ndim == 1 and labels.max() >= MAX_CLASSES:
        raise InputError(f"{where} labels go up to {labels.max()}; number the classes from 0")
    return images, labels.astype(np.int32 if labels.ndim == 1 else np.uint8)


def _count_classes(labels: np.ndarray) -> int:
    return labels.shape[1] if labels.ndim == 2 else 1 + int(labels.max())


LOADERS: dict[str, Callable[[str], Arrays]] = dict(digits=load_digits, idx=load_idx, npz=load_npz)

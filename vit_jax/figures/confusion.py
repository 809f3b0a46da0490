"""Pictures of a classifier's errors: the confusion matrix, and the worst errors as files."""

import csv
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.figures.draw import figure_class
from vit_jax.text import printable

NAMED = 60  # classes up to which axes name them all
COUNTED = 25  # classes up to which cells show their numbers
INDEX = ("file", "image", "label", "predicted", "probability", "label_probability", "loss")


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str = "") -> Any:
    """A confusion matrix as a matplotlib Figure; colours are shares of a class's images.

    Args:
      matrix: number of images by class (rows) and predicted class (columns), (K, K).
      names: class names by number.
      title: line above.

    Raises:
      InputError: matplotlib is not installed.
    """
    classes = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.5 + 0.3 * min(classes, NAMED), 4.5, 16))
    figure = figure_class()(figsize=(side + 1, side))
    axis = figure.subplots()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axis, label="share of the class's images", shrink=0.8)
    axis.set(xlabel="predicted class", ylabel="class")
    if title:
        axis.set_title(printable(title), fontsize=9, parse_math=False)
    if classes <= NAMED:
        shown = [_short(name, 24) for name in names]
        axis.set_xticks(range(classes), shown, rotation=90, fontsize=7, parse_math=False)
        axis.set_yticks(range(classes), shown, fontsize=7, parse_math=False)
    if classes <= COUNTED:
        for row, column in zip(*np.nonzero(matrix)):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]:,}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=6)
    return figure


def save_confusion(matrix: np.ndarray, names: Sequence[str], file: str, title: str = "") -> None:
    """Writes `draw_confusion` as a PNG."""
    figure = draw_confusion(matrix, names, title)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # drawn as a box
        figure.savefig(file, dpi=150, bbox_inches="tight")


def write_worst(
    folder: str, errors: Sequence[dict[str, Any]], pictures: Iterable[np.ndarray]
) -> list[str]:
    """Writes the pictures of errors as PNG files, and `index.csv`, which lists them.

    A name has the rank, the label, the predicted class and its probability, as in
    `003_label-cat_predicted-dog_0.981.png`.

    Args:
      folder: folder that exists.
      errors: from `Details.worst`.
      pictures: uint8 (h, w, 3) each, in the same order.

    Returns:
      The paths of the pictures.
    """
    from PIL import Image

    files = []
    with open(Path(folder, "index.csv"), "w", newline="") as index:
        writer = csv.DictWriter(index, INDEX, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for rank, (error, picture) in enumerate(zip(errors, pictures, strict=True), 1):
            names = f"label-{_safe(error['label'])}_predicted-{_safe(error['predicted'])}"
            probability = error["probability"]
            file = f"{rank:03}_{names}_{0.0 if probability is None else probability:.3f}.png"
            Image.fromarray(picture).save(Path(folder, file))
            texts = {name: printable(error[name]) for name in ("image", "label", "predicted")}
            writer.writerow(dict(error, file=file, **texts))
            files.append(str(Path(folder, file)))
    return files


def _short(name: str, most: int) -> str:
    name = printable(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def _safe(name: str) -> str:
    """A class name as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:40] or "class"

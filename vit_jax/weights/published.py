"""The list of published weights: what they are, and where their figures come from."""

import csv
import dataclasses
import fnmatch
import functools
from collections.abc import Sequence
from pathlib import Path

from vit_jax import models

FIGURES = ("fine-tuned", "linear", "k-NN", "zero-shot")


@dataclasses.dataclass(frozen=True)
class Published:
    """Published weights that `vit_jax.load` takes by their name.

    Attributes:
      name: hub id.
      family: what was pre-trained and how, such as "DINOv3" or "CLIP".
      model: nearest model of `list_models`.
      image_size: height and width of the images in pixels.
      millions: number of parameters of the image tower, in millions.
      classes: number of classes of its classifier; 0: none, it gives features.
      licence: licence of the weights, as the publisher names it.
      figure: top-1 accuracy on ImageNet in percent that is published for them; None: none.
      figure_kind: how it was reached: one of FIGURES, or of "ReaL" labels if it says so.
      source: where the figure is published.
      preprocessing: operations of `data.pp` for evaluation.
    """

    name: str
    family: str
    model: str
    image_size: int
    millions: float
    classes: int
    licence: str
    figure: float | None
    figure_kind: str
    source: str
    preprocessing: str


@functools.cache
def published() -> Sequence[Published]:
    """The whole list, in the order of its file."""
    with open(Path(__file__).with_name("published.tsv"), newline="") as file:
        return tuple(_entry(row) for row in csv.DictReader(file, delimiter="\t"))


def _entry(row: dict[str, str]) -> Published:
    return Published(
        name=row["name"],
        family=row["family"],
        model=row["model"],
        image_size=int(row["image_size"]),
        millions=float(row["millions"]),
        classes=int(row["classes"]),
        licence=row["licence"],
        figure=float(row["figure"]) if row["figure"] else None,
        figure_kind=row["figure_kind"],
        source=row["source"],
        preprocessing=row["preprocessing"],
    )


def find_published(pattern: str = "*") -> list[Published]:
    """Entries whose name, family or model matches a shell pattern; case is ignored."""
    pattern = pattern.lower()
    return [
        entry
        for entry in published()
        if any(
            fnmatch.fnmatchcase(text.lower(), pattern)
            for text in (entry.name, entry.family, entry.model)
        )
    ]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of models.

    Args:
      pattern: shell pattern, such as "ViT-*/16" or "r50*"; case is ignored.
      pretrained: list published weights that `vit_jax.load` takes, instead of models that
        `create_model` makes; the pattern may also match their family or model.
    """
    if pretrained:
        return [entry.name for entry in find_published(pattern)]
    return models.list_models(pattern)

"""The list of published weights: what they are, and where their figures come from."""

import csv
import dataclasses
import fnmatch
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vit_jax import models
from vit_jax.schema import check_given

TABLE = Path(__file__).with_name("published.tsv")
COLUMNS = (
    *("name", "family", "model", "image_size", "parameters", "classes", "licence", "figures"),
    *("source", "preprocessing"),
)
# How a figure was reached.
FIGURES = {
    "fine-tuned": "all weights were trained further on ImageNet",
    "supervised": "the weights were trained on ImageNet, without other pre-training",
    "linear": "a linear classifier on frozen features",
    "k-NN": "nearest neighbours of frozen features",
    "frozen": "a classifier on a frozen trunk; the source does not say which",
    "ReaL": "on the ReaL labels, by the protocol of the authors' paper",
}


@dataclasses.dataclass(frozen=True)
class Published:
    """Published weights that `vit_jax.load` takes by their name.

    Attributes:
      name: id on the Hugging Face hub, or URL of a file.
      family: what was pre-trained and how, such as "DINOv3" or "CLIP".
      model: nearest model of `list_models`.
      image_size: height and width in pixels of the images that the preprocessing makes; of
        the grid of position embeddings for images of any size (NaFlex).
      parameters: number of parameters of the model that `load` returns.
      classes: number of classes of its classifier; 0: none, it gives features.
      licence: licence of the weights, as timm or the publisher names it; "": not said.
      figures: kind, one of FIGURES -> published top-1 accuracy on ImageNet in percent.
      source: where the figures are published: repository@commit and file; "": no figures.
      preprocessing: operations of `data.pp` for evaluation.
    """

    name: str
    family: str
    model: str
    image_size: int
    parameters: int
    classes: int
    licence: str
    figures: Mapping[str, float]
    source: str
    preprocessing: str


@functools.cache
def published() -> Sequence[Published]:
    """The whole list, in the order of its file."""
    with TABLE.open(newline="") as file:
        return tuple(_read(file))


def _read(lines: Iterable[str]) -> list[Published]:
    """The entries; a line "# key<TAB>text" gives a source or a preprocessing of several."""
    texts, rest = {"": ""}, []
    for line in lines:
        if line.startswith("# "):
            key, _, text = line[2:].rstrip("\n").partition("\t")
            texts[key] = text
        else:
            rest.append(line)
    return [
        Published(
            name=row["name"],
            family=row["family"],
            model=row["model"],
            image_size=int(row["image_size"]),
            parameters=int(row["parameters"]),
            classes=int(row["classes"]),
            licence=row["licence"],
            figures=_figures(row["figures"]),
            source=texts[row["source"]],
            preprocessing=texts[row["preprocessing"]],
        )
        for row in csv.DictReader(rest, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]


def _figures(text: str) -> dict[str, float]:
    """What "k-NN 79.0, linear 81.1" says."""
    pairs = [each.rpartition(" ") for each in text.split(", ") if each]
    return {kind: float(value) for kind, _, value in pairs}


def find_published(pattern: str = "*") -> list[Published]:
    """Entries of which the pattern matches the name, its part after a "/", the family or the model.

    Args:
      pattern: shell pattern; case is ignored.
    """
    pattern = pattern.lower()

    def matches(entry: Published) -> bool:
        name = entry.name.lower()
        texts = (name, name.rpartition("/")[2], entry.family.lower(), entry.model.lower())
        return any(fnmatch.fnmatchcase(text, pattern) for text in texts)

    return [entry for entry in published() if matches(entry)]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of models.

    Args:
      pattern: shell pattern, such as "ViT-*/16" or "r50*"; case is ignored.
      pretrained: list published weights that `vit_jax.load` takes, instead of models that
        `create_model` makes; the pattern is for their name, with or without what stands before
        the "/", their family or their model.

    Raises:
      InputError: the pattern is no text.

    Example:
        >>> vit_jax.list_models("vit-b/*")
        ['ViT-B/8', 'ViT-B/16', 'ViT-B/32']
        >>> "google/vit-base-patch16-224" in vit_jax.list_models("*patch16*", pretrained=True)
        True
    """
    check_given(pattern, "pattern", str)
    if pretrained:
        return [entry.name for entry in find_published(pattern)]
    return models.list_models(pattern)

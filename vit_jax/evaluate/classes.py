"""Matches the classes of a data set to those of a model, by name or by number."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vit_jax.data import Source
from vit_jax.text import some


@dataclasses.dataclass(frozen=True)
class Match:
    """The model's class for each class of a data set.

    Attributes:
      places: the model's class of each of the data set's, int (classes,); -1: it has none.
      width: number of classes of the model.
      line: how the classes were matched, in a line; "" if both have the same.
    """

    places: np.ndarray
    width: int
    line: str

    @property
    def trivial(self) -> bool:
        return bool((self.places == np.arange(len(self.places))).all())

    def widened(self, label: np.ndarray) -> np.ndarray:
        """Sets of classes in the model's numbers: (n, classes) -> (n, width)."""
        known = self.places >= 0
        wide = np.zeros((len(label), self.width), label.dtype)
        wide[:, self.places[known]] = label[:, known]
        return wide

    def __call__(self, batches: Iterable[dict], multi_label: bool) -> Iterator[dict]:
        """Batches with the model's class numbers; examples of other classes do not count.

        An example with several classes keeps those that the model has.
        """
        for batch in batches:
            label = batch["label"]
            if self.trivial and not multi_label:
                yield batch
            elif multi_label:
                yield dict(batch, label=self.widened(label))
            else:
                places = self.places[label]
                counts = batch["mask"] & (places >= 0)
                yield dict(batch, label=np.maximum(places, 0).astype(label.dtype), mask=counts)


def match_classes(source: Source, labels: Sequence[str], width: int) -> Match:
    """Matches by name where one name is known to both, else by number.

    Folders are numbered in the order of their names, so that a data set without some classes
    numbers the others differently.

    Args:
      source: data set.
      labels: class names of the model by number; [] if unknown.
      width: number of classes of the model.
    """
    names, labels = list(source.label_names), list(labels)
    numbers = {name: number for number, name in enumerate(labels)}
    unique = len(numbers) == len(labels)
    if labels and names == labels:
        return Match(np.arange(len(names)), width, "")
    known = [name for name in names if name in numbers] if unique else []
    if known:
        places = np.array([numbers.get(name, -1) for name in names])
        line = f"matched by name: {len(known)} of the model's {width}"
        if len(known) < len(names):
            others = [name for name in names if name not in numbers]
            line += f"; images of {len(others)} other classes ({some(others)}) do not count"
        return Match(places, width, _line(source, line))
    if all(name.isascii() and name.isdecimal() and int(name) < width for name in names):
        places = np.array([int(name) for name in names])
        if len(set(places)) == len(names):
            line = f"named by numbers: taken as the numbers of the model's {width} classes"
            return Match(places, width, _line(source, line))
    why = "the model's have other names" if labels else "the model has no names of classes"
    line = f"matched by their order, as {why}: class {names[0]!r} is the model's number 0"
    return Match(np.arange(len(names)), width, _line(source, line))


def _line(source: Source, text: str) -> str:
    return f"{source.num_classes} classes of {source.name} ({source.split}) are {text}"

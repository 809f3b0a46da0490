"""The rows that a layout lists: files with their split and label, kept as a table."""

import dataclasses
import json
import os
from collections.abc import Sequence

import numpy as np

from vit_jax.data.sources import cache
from vit_jax.data.sources.folder import Folder, Listing, Paths


@dataclasses.dataclass
class Rows:
    """Image files below a folder, as they are found.

    Attributes:
      splits: names of the splits.
      names: paths below the folder.
      sizes: in bytes.
      split: number of each file's split.
      labels: label of each.
      left_out: what was passed over, by kind.
    """

    splits: list[str]
    names: list[str] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)
    split: list[int] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, split: int, prefix: str, images: Sequence[os.DirEntry], labels: Sequence[str]):
        """Adds images of one folder, `prefix` below the root."""
        self.names += [os.path.join(prefix, image.name) for image in images]
        self.sizes += [image.stat().st_size for image in images]
        self.split += [split] * len(images)
        self.labels += labels

    def table(self) -> cache.Table:
        """The rows as arrays, for `cache`."""
        names = [os.fsencode(name) for name in self.names]
        number = {label: row for row, label in enumerate(dict.fromkeys(self.labels))}
        about = dict(splits=self.splits, labels=list(number), left_out=self.left_out)
        return dict(
            sizes=np.array(self.sizes, np.int64),
            lengths=np.array([len(name) for name in names], np.int32),
            text=np.frombuffer(b"".join(names), np.uint8),
            split=np.array(self.split, np.int32),
            codes=np.array([number[label] for label in self.labels], np.int32),
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """A table of `Rows`, read back.

    Attributes:
      labels: the different labels.
      of_split: the labels in each split.
      left_out: what was passed over, by kind.
    """

    table: cache.Table
    labels: list[str]
    of_split: dict[str, list[str]]
    left_out: dict[str, int]

    @classmethod
    def of(cls, table: cache.Table) -> "Found":
        about = json.loads(table["about"].tobytes())
        labels = about["labels"]
        of_split = {
            name: [labels[code] for code in np.unique(table["codes"][table["split"] == number])]
            for number, name in enumerate(about["splits"])
        }
        return cls(table, labels, of_split, about["left_out"])

    def folder(self, root: str, number: dict[str, int], label_names: list[str]) -> Folder:
        """All files, sorted by split, class and name.

        Args:
          root: folder that the names are below.
          number: number of the class that each label stands for.
          label_names: class names by number.
        """
        split, lengths = self.table["split"], self.table["lengths"]
        targets = np.array([number[label] for label in self.labels], np.int32)[self.table["codes"]]
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        paths = Paths(os.fsencode(root), self.table["text"].tobytes(), starts, lengths)
        order = np.lexsort((targets, split))  # files of a split are listed by name
        files = Listing(paths, targets, self.table["sizes"]).take(order)
        rows = {
            name: np.flatnonzero(split[order] == place)
            for place, name in enumerate(self.of_split)
            if self.of_split[name]
        }
        return Folder(files, rows, label_names)

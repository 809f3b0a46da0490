"""Images stored in a column of an Arrow table, read by row."""

import dataclasses
from typing import Protocol

import numpy as np

from vit_jax.data.ops.image_files import HEAD_BYTES
from vit_jax.data.sources.opening import Request
from vit_jax.data.sources.source import Source
from vit_jax.data.sources.tables.classes import Chosen


class ImageRows(Protocol):
    """Random access to a column of images; called from several threads."""

    def read(self, rows: np.ndarray) -> list[bytes]:
        """The bytes of the image files in some rows; b"" where there is none."""
        ...

    def describe(self, row: int) -> str:
        """The place of a row, for messages."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnSource(Source):
    """Images in a column, with labels that are known.

    Attributes:
      images: column of images.
      picked: row of each example, int64 (size,).
      targets: classes, int32 (size,), or sets of classes, uint8 (size, classes).
      content: digest of the files' content.
    """

    images: ImageRows
    picked: np.ndarray
    targets: np.ndarray
    content: bytes

    @classmethod
    def of(
        cls, chosen: Chosen, images: ImageRows, content: bytes, request: Request
    ) -> "ColumnSource":
        """The source of the examples that were chosen."""
        return cls(
            size=len(chosen.rows),
            label_names=chosen.label_names,
            rows=chosen.rows,
            images=images,
            picked=chosen.rows,
            targets=chosen.targets,
            content=content,
            **request.common,
        )

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = self.images.read(self.picked[index])
        return payloads

    def labels(self, index: np.ndarray) -> np.ndarray:
        return self._encode(self.targets[index])

    def head(self, index: int) -> bytes:
        return self.fetch(np.array([index]))[0][:HEAD_BYTES]

    def describe(self, index: int) -> str:
        return self.images.describe(int(self.picked[index]))

    def _identity(self):
        yield self.content
        yield self.picked
        yield np.ascontiguousarray(self.targets)

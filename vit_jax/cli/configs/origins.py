"""Which line of a config file sets an option: noted while the file runs."""

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ml_collections import ConfigDict

from vit_jax.config import default


@dataclasses.dataclass
class Writes:
    """The writes to sections of configs: (id of a section, key) -> line; None: elsewhere."""

    file: str
    lines: dict[tuple[int, str], int | None] = dataclasses.field(default_factory=dict)
    # Sections stay alive, so that no two have the same id.
    sections: list[ConfigDict] = dataclasses.field(default_factory=list)

    def note(self, section: ConfigDict, key: str, frame: FrameType | None) -> None:
        """Notes a write that was made in `frame`, or by a function that it called."""
        self.sections.append(section)
        while frame is not None:
            if frame.f_code is default.__code__:
                self.lines.pop((id(section), key), None)
                return
            if os.path.abspath(frame.f_code.co_filename) == self.file:
                self.lines[id(section), key] = frame.f_lineno
                return
            frame = frame.f_back
        self.lines[id(section), key] = None

    def by_name(self, config: ConfigDict) -> dict[str, int | None]:
        """Full name -> line of the file, None if something else set it; unset options lack."""
        return dict(self._of(config, "", {}))

    def _of(
        self, section: ConfigDict, prefix: str, above: dict[str, int | None]
    ) -> Iterator[tuple[str, int | None]]:
        for key, value in section.items(preserve_field_references=True):
            place = (id(section), key)
            own = {"": self.lines[place]} if place in self.lines else above
            if isinstance(value, ConfigDict):
                yield from self._of(value, f"{prefix}{key}.", own)
            elif own:
                yield f"{prefix}{key}", own[""]


@contextlib.contextmanager
def writes_of(file: str | Path) -> Iterator[Writes]:
    """Notes all writes to configs in the block, with the lines of `file` that made them."""
    writes = Writes(os.path.abspath(file))
    write = ConfigDict.__setitem__

    def noted(section: ConfigDict, key: str, value: Any) -> None:
        write(section, key, value)
        frame = inspect.currentframe()
        writes.note(section, key, frame and frame.f_back)

    ConfigDict.__setitem__ = noted
    try:
        yield writes
    finally:
        ConfigDict.__setitem__ = write

"""How far a run is: a live display on a terminal, plain lines elsewhere."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from vit_jax.text import PrintableFormatter, root_logger_kept
from vit_jax.train.log.memory import used_memory
from vit_jax.train.log.status import Status

if TYPE_CHECKING:
    from vit_jax.train.log.display import Display

log = logging.getLogger(__name__)
_PACKAGE = logging.getLogger("vit_jax")


@contextlib.contextmanager
def shown_log() -> Iterator[None]:
    """Prints the log of vit_jax to standard error, if nothing else handles it.

    The command line sets up logging itself; a program or notebook often does not.
    """
    if _PACKAGE.hasHandlers():
        with root_logger_kept():
            yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter())
    level = _PACKAGE.level
    _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(level or logging.INFO)
    try:
        with root_logger_kept():
            yield
    finally:
        _PACKAGE.removeHandler(handler)
        _PACKAGE.setLevel(level)


class Progress:
    """Tells the stages of a start, then the steps.

    On a terminal a few lines below the log show the newest state. Elsewhere each stage is a line
    of the log, and a thread repeats the newest state at an interval, also while the main thread
    compiles. Where the log of vit_jax shows errors only, nothing is told.

    Attributes:
      status: newest state.
    """

    def __init__(self, seconds: float, *, active: bool, best_by: str = ""):
        """Starts telling.

        Args:
          seconds: interval of the lines without a terminal; 0: none.
          active: whether this process tells anything.
          best_by: metric that tells the best evaluation, as eval/<name>/<metric>.
        """
        self.status = Status(best_by=best_by)
        active = active and log.isEnabledFor(logging.INFO)
        self._seconds = seconds if active else 0.0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._display: Display | None = None
        if active and _is_watched(sys.stderr):
            from vit_jax.train.log import display

            self._display, self._seconds = display.Display(self.status), 0.0
        elif self._seconds:
            self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)
            self._thread.start()

    def stage(self, name: str, *, quiet: bool = False) -> None:
        """Begins a stage, such as "compiling the training step"; "": the steps.

        Args:
          name: what is done now.
          quiet: whether to tell it only if it lasts.
        """
        self.status.since, self.status.stage = time.monotonic(), name
        if self._display and name and not quiet:
            self._display.refresh()
        elif self._seconds and name and not quiet:
            log.info("%s", name)

    def step(self, step: int, total: int) -> None:
        """Notes that `step` steps of `total` are done."""
        self.status.step, self.status.total = step, total

    def show(self, metrics: dict[str, float], seconds_left: float) -> None:
        """Notes the newest metrics, named as in metrics.jsonl, and the time left."""
        self.status.metrics = dict(metrics)
        self.status.left(seconds_left)
        if self._display:
            self.status.memory, self.status.memory_limit = used_memory()

    def evaluated(self, step: int, values: Mapping[str, float | None]) -> None:
        """Notes results of evaluations, named eval/<name>/<metric>; other values are left out."""
        self.status.evaluated(step, values)

    def evaluated_before(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Notes the results of earlier starts, lines of metrics.jsonl."""
        for line in lines:
            self.evaluated(line["step"], line)

    def close(self) -> None:
        """Ends the display, and the thread."""
        self._closed.set()
        if self._thread:
            self._thread.join()
        if self._display:
            self._display.close()

    def _repeat(self) -> None:
        while not self._closed.wait(self._seconds):
            log.info("%s", self.status.line())


def _is_watched(stream: TextIO) -> bool:
    """Whether a stream is a terminal that somebody looks at, on which lines can be drawn again.

    Services that run builds and tests set CI; what they show is a file.
    """
    able = os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    return able and not os.environ.get("CI") and stream.isatty()

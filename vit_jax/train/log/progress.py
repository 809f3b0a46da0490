"""How far a run is: a line overwritten in place on a terminal, plain lines elsewhere."""

import contextlib
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator

from vit_jax.text import PrintableFormatter

log = logging.getLogger(__name__)
_PACKAGE = logging.getLogger("vit_jax")


@contextlib.contextmanager
def shown_log() -> Iterator[None]:
    """Prints the log of vit_jax to standard error, if nothing else handles it.

    The command line sets up logging itself; a program or notebook often does not.
    """
    if _PACKAGE.hasHandlers():
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter())
    level = _PACKAGE.level
    _PACKAGE.addHandler(handler)
    _PACKAGE.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        _PACKAGE.removeHandler(handler)
        _PACKAGE.setLevel(level)


class Progress:
    """Tells the stages of a start, then the steps.

    On a terminal all of it is one line, which makes way for every line of the log. Elsewhere
    each stage is a line of the log, and a thread repeats the newest state at an interval, also
    while the main thread compiles.
    """

    def __init__(self, seconds: float, *, active: bool):
        """Starts telling.

        Args:
          seconds: interval of the lines without a terminal; 0: none.
          active: whether this process tells anything.
        """
        self._active = active
        self._terminal = active and sys.stderr.isatty()
        self._seconds = seconds
        self._lock = threading.RLock()
        self._shown = False  # whether the terminal's last line is the progress
        self._stage, self._since = "", time.monotonic()
        self._total = self._step = 0
        self._details = ""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._handlers: list[logging.Handler] = []
        if self._terminal:
            self._handlers = _handlers_of(sys.stderr)
            for handler in self._handlers:
                handler.addFilter(self._make_way)
        elif active and seconds:
            self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)
            self._thread.start()

    def stage(self, name: str, *, quiet: bool = False) -> None:
        """Begins a stage, such as "compiling the training step"; "": the steps.

        Args:
          name: what is done now.
          quiet: whether to tell it only if it lasts.
        """
        self._stage, self._since = name, time.monotonic()
        if self._terminal and name:
            self._draw(name)
        elif self._active and self._seconds and name and not quiet:
            log.info("%s", name)

    def step(self, step: int, total: int) -> None:
        """Notes that `step` steps of `total` are done."""
        self._step, self._total = step, total

    def show(self, metrics: dict[str, float], seconds_left: float) -> None:
        """Notes loss, speed, MFU where known, and the time left; a terminal shows them."""
        parts = []
        if "train/loss" in metrics:
            parts.append(f"loss {metrics['train/loss']:.4f}")
        if "train/images_per_second" in metrics:
            parts.append(f"{metrics['train/images_per_second']:,.0f} images/s")
        if "train/mfu" in metrics:
            parts.append(f"MFU {metrics['train/mfu']:.1%}")
        parts.append(f"{_duration(seconds_left)} left")
        self._details = "".join(f", {part}" for part in parts)
        if self._terminal:
            self._draw(self._newest())

    def close(self) -> None:
        """Ends the line, and the thread."""
        self._closed.set()
        if self._thread:
            self._thread.join()
        for handler in self._handlers:
            handler.removeFilter(self._make_way)
        with self._lock:
            if self._shown:
                print(file=sys.stderr, flush=True)
            self._shown = False

    def _newest(self) -> str:
        if self._stage:
            return f"{self._stage}: {_duration(time.monotonic() - self._since)} so far"
        return f"step {self._step}/{self._total}{self._details}"

    def _repeat(self) -> None:
        while not self._closed.wait(self._seconds):
            log.info("%s", self._newest())

    def _draw(self, text: str) -> None:
        width = max(20, shutil.get_terminal_size().columns - 1)
        with self._lock:
            print(f"\r{text[:width]}", end="\033[K", file=sys.stderr, flush=True)
            self._shown = True

    def _make_way(self, record: logging.LogRecord) -> bool:
        """Clears the line before a line of the log; as a filter it lets every record pass."""
        with self._lock:
            if self._shown:
                print("\r", end="\033[K", file=sys.stderr, flush=True)
            self._shown = False
        return True


def _handlers_of(stream: object) -> list[logging.Handler]:
    """The handlers that print the log of vit_jax, or of other libraries, to a stream."""
    found = [*_PACKAGE.handlers, *logging.getLogger().handlers, logging.lastResort]
    return [
        handler
        for handler in found
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"

"""How far a command is: a line on standard error, overwritten in place, on a terminal only."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

EVERY = 0.1  # seconds between two drawings
_ERASE = "\r\x1b[K"


class Watching:
    """Shows evaluations one after another; called with the number of images of each."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self, total: int) -> Callable[[int], None]:
        """Begins an evaluation; the result is to be called with the number of images done."""
        self.close()
        self._progress = Progress(total)
        return self._progress.advance

    def close(self) -> None:
        """Erases the line."""
        if self._progress:
            self._progress.close()


class Progress:
    """Counts what is done of a known number of things."""

    def __init__(self, total: int, unit: str = "images"):
        """`total`: their number; `unit`: their name."""
        self._total, self._unit = total, unit
        self._done, self._begun, self._drawn = 0, 0.0, 0.0
        self._first = 0
        self._terminal, self._shown = sys.stderr.isatty(), False

    def advance(self, count: int = 1) -> None:
        """Counts some more; speed is measured from the first call, after what is compiled."""
        self._begun = self._begun or time.monotonic()
        self._first = self._first or count
        self._done += count
        if time.monotonic() - self._drawn >= EVERY:
            self._draw()

    @contextlib.contextmanager
    def aside(self, stream: TextIO) -> Iterator[None]:
        """The line makes way for output to a stream that the terminal shows."""
        shown = stream.isatty()
        if shown:
            self.close()
        yield
        if shown:
            stream.flush()

    def close(self) -> None:
        """Erases the line."""
        if self._shown:
            print(_ERASE, end="", file=sys.stderr, flush=True)
            self._shown = False

    def _draw(self) -> None:
        if not self._terminal:
            return
        self._drawn, self._shown = time.monotonic(), True
        text = f"{self._done:,} of {self._total:,} {self._unit}"
        speed = (self._done - self._first) / max(self._drawn - self._begun, 1e-9)
        if speed:
            shown = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
            text += f", {shown}/s, {_clock((self._total - self._done) / speed)} left"
        # The cursor returns to the beginning, so that nothing is glued behind the line.
        print(f"{_ERASE}{text}\r", end="", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

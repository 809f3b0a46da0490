"""The live display of a run on a terminal: a few lines that stay below the log.

Nothing but the lines themselves is changed in the terminal: no cursor is hidden and no other
screen is opened, so that a run that is killed leaves it as it was.
"""

import contextlib
import io
import logging
import sys
import threading
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vit_jax.text import printable
from vit_jax.train.log.status import Status, duration

PER_SECOND = 2  # updates
WIDEST = 100  # characters
_PACKAGE = logging.getLogger("vit_jax")


class _Console(Console):
    def show_cursor(self, show: bool = True) -> bool:
        """Leaves the cursor alone."""
        return False


class Display:
    """Draws the status of a run, and prints above it what else is written to the terminal."""

    def __init__(self, status: Status):
        """Begins to draw on standard error, in a thread, PER_SECOND times a second."""
        self._status = status
        self._closed = False
        self._stream = sys.stderr
        self._console = _Console(file=sys.stderr)
        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._above = _Above(self._console, sys.stderr)
        self._handlers = _handlers_of(sys.stderr)
        for handler in self._handlers:
            handler.setStream(self._above)
        sys.stderr = self._above
        self._stdout = sys.stdout
        if sys.stdout.isatty():
            sys.stdout = _Above(self._console, sys.stdout)
        self._live.start()

    def refresh(self) -> None:
        """Draws at once."""
        # A terminal that has gone away does not end a run.
        with contextlib.suppress(OSError):
            self._live.refresh()

    def close(self) -> None:
        """Draws the last state, which stays, and gives the terminal back."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._live.stop()
        for handler in self._handlers:
            handler.setStream(self._stream)
        for above in (sys.stdout, sys.stderr):
            if isinstance(above, _Above):
                above.end()
        sys.stdout, sys.stderr = self._stdout, self._stream

    def render(self) -> RenderableType:
        """The lines of the present state."""
        width = min(self._console.width, WIDEST) - 1
        lines = drawing(self._status, width)
        if self._closed:
            return Group(*lines)
        # The cursor rests on a line of its own: what others write is not behind a line of ours.
        return Group(*lines, Text(""))


def drawing(status: Status, width: int) -> list[RenderableType]:
    """The lines of a status, at most `width` characters wide."""
    lines: list[RenderableType] = []
    if status.total:
        count = Text(f"step {status.step:,}/{status.total:,}", style="bold")
        end = Text(f" {status.step / status.total:4.0%}")
        left = status.seconds_left
        if left is not None and status.step < status.total:
            end.append(f", {duration(left)} left", style="cyan")
        bar = width - len(count) - len(end) - 1
        if bar >= 10:
            row = Table.grid()
            middle = ProgressBar(total=status.total, completed=status.step, width=min(bar, 40))
            row.add_row(count, " ", middle, end)
            lines.append(row)
        else:
            lines.append(_cut(count + end, width))
    lines += [_cut(Text(row), width) for row in _rows(list(filter(None, status.numbers())), width)]
    lines += _evaluations(status, width)
    if status.stage:
        lines.append(_cut(Text(printable(status.line()), style="yellow"), width))
    return lines


def _evaluations(status: Status, width: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for name, found in list(status.evaluations.items())[:4]:
        values = [f"{metric} {value:.4g}" for metric, value in found.last.items()]
        values = [value for value in values if not value.startswith("examples ")][:4]
        text = Text(f"{printable(name)}: {', '.join(values)} (step {found.step:,})")
        best = f"best {found.metric} {found.best:.4g} (step {found.best_step:,})"
        if len(text) + 2 + len(best) <= width:
            lines.append(text + Text(f"; {best}", style="green"))
        else:
            lines += [_cut(text, width), _cut(Text(f"  {best}", style="green"), width)]
    return lines


def _rows(parts: list[str], width: int) -> list[str]:
    """Parts in as few rows as they fit into."""
    rows: list[str] = []
    for part in parts:
        if rows and len(rows[-1]) + 2 + len(part) <= width:
            rows[-1] += f", {part}"
        else:
            rows.append(part)
    return rows


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text


class _Above(io.TextIOBase):
    """A stream whose lines are printed above the display, whole."""

    def __init__(self, console: Console, stream: TextIO):
        self._console, self._stream = console, stream
        self._rest = ""
        self._ended = False
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock, contextlib.suppress(OSError):
            if self._ended:  # of a handler that was made while the display was there
                self._stream.write(text)
                return len(text)
            *lines, self._rest = (self._rest + text).split("\n")
            if lines:
                # Soft wrapping: the terminal breaks long lines, and copies them whole.
                self._console.print(
                    Text("\n".join(lines)), markup=False, highlight=False, soft_wrap=True
                )
        return len(text)

    def end(self) -> None:
        """Writes what has no end of line yet; from now on everything goes to the stream."""
        with self._lock, contextlib.suppress(OSError):
            self._ended = True
            self._stream.write(self._rest)
            self._rest = ""
            self._stream.flush()

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True


def _handlers_of(stream: TextIO) -> list[logging.StreamHandler]:
    """The handlers that print the log of vit_jax, or of other libraries, to a stream."""
    found = [*_PACKAGE.handlers, *logging.getLogger().handlers]
    return [
        handler
        for handler in found
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]

"""Where wall-clock time goes, by phase."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds spent in each phase; phases do not nest.

    Attributes:
      seconds: phase -> seconds so far.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.started = time.monotonic()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of a `with` block towards `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.monotonic() - self.started

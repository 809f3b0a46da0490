"""Wall-clock time of a run by phase."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds spent in each phase; phases do not nest.

    Attributes:
      seconds: phase -> seconds so far, without the one under way.
      current: the phase that is under way, "other" outside all.
    """

    def __init__(self, started: float | None = None):
        """Starts counting; time since `started` (a `time.monotonic()`) counts as phase "start"."""
        now = time.monotonic()
        self.started = now if started is None else started
        self.seconds: dict[str, float] = {"start": now - self.started}
        self.current = "other"
        self._since = self.started

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time of a `with` block towards `name`."""
        self.current, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - self._since
            self.current = "other"

    def account(self) -> tuple[float, dict[str, float]]:
        """Seconds in total, and by phase, the current one included; they add up to the total."""
        now, seconds = time.monotonic(), dict(self.seconds)
        if self.current != "other":
            seconds[self.current] = seconds.get(self.current, 0.0) + now - self._since
        total = now - self.started
        return total, dict(seconds, other=total - sum(seconds.values()))

    def total(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self.started

"""goodput.jsonl: where the wall-clock time of a run went, over all its starts.

A line holds the seconds that one start of the run has spent so far; the last line of each
start counts. The time between two lines is a hundredth of the time so far, at least a second:
a start that is killed loses no more than that, and a long run's file stays short.

| phase | time |
|---|---|
| start | until the first step: imports, data, model, restoring a checkpoint |
| compile | the first step |
| step | training |
| redone | training steps that an earlier start had done after its last checkpoint |
| data | waiting for a batch |
| eval | evaluating |
| checkpoint | waiting for a checkpoint: copying from the device; at the end also writing |
| other | everything else |
"""

import time
from pathlib import Path
from typing import Any, TypedDict

from vit_jax import jsonl
from vit_jax.train.log.clock import Clock

SHARE, SECONDS = 0.01, 1.0  # of the time so far, between two lines


class Line(TypedDict):
    """A line of goodput.jsonl."""

    start: int
    step: int
    wall: float
    seconds: dict[str, float]


class Goodput:
    """The time account of this start of a run, beside those of earlier starts.

    Attributes:
      reached: last step that an earlier start has recorded as done.
    """

    def __init__(self, workdir: Path, clock: Clock, *, write: bool):
        """Opens the account.

        Args:
          workdir: workdir of the run.
          clock: clock of this start.
          write: whether this process writes the file.
        """
        path = workdir / "goodput.jsonl"
        # The last line of each start; a dict keeps the order.
        self._before = list(
            {line["start"]: line for line in jsonl.read(path, Line, aside=write)}.values()
        )
        self.reached = max((line["step"] for line in self._before), default=0)
        self._clock = clock
        self._line = dict(start=len(self._before) + 1, began=time.time() - clock.total())
        self._step = 0
        self._next = 0.0  # seconds of the run at which the next line is due
        self._file: jsonl.Appender | None = None
        if write:
            jsonl.replace(path, self._before)
            self._file = jsonl.Appender(path)
        self.record(0)

    def record(self, step: int) -> None:
        """Notes that `step` steps are done; writes a line if it is time."""
        self._step = step
        if self._file and self._clock.total() >= self._next:
            self._write(self._file)

    def _write(self, file: jsonl.Appender) -> None:
        file.write(self._now())
        wall = self._clock.total()
        self._next = wall + max(SECONDS, SHARE * wall)

    def _now(self) -> dict[str, Any]:
        wall, seconds = self._clock.account()
        rounded = {phase: round(value, 3) for phase, value in seconds.items()}
        return dict(self._line, step=self._step, wall=round(wall, 3), seconds=rounded)

    def summary(self) -> dict[str, Any]:
        """All starts together: `share` of time spent on new steps, `wall`, `seconds` by phase."""
        starts = [*self._before, self._now()]
        seconds: dict[str, float] = {}
        for line in starts:
            for phase, value in line["seconds"].items():
                seconds[phase] = round(seconds.get(phase, 0.0) + value, 3)
        wall = round(sum(line["wall"] for line in starts), 3)
        share = round(seconds.get("step", 0.0) / wall, 4)
        return dict(share=share, wall=wall, starts=len(starts), seconds=seconds)

    def close(self) -> None:
        """Writes the last line."""
        if self._file:
            self._write(self._file)
            self._file.close()
            self._file = None

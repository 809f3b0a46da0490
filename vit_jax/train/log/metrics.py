"""Reports of a run: metrics.jsonl and TensorBoard events."""

import dataclasses
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from vit_jax import jsonl
from vit_jax.options import option
from vit_jax.text import reason

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """`config.log`."""

    every: int = option(
        50, "number of steps between lines of metrics.jsonl", effect="course", at_least=1
    )
    tensorboard: bool = option(
        True, "write TensorBoard event files into the workdir", effect="course"
    )
    progress: float = option(
        30.0,
        "seconds between lines about progress where standard error is no terminal; 0: none",
        effect="course",
        at_least=0,
    )
    spike: float = option(
        3.0,
        "warn when the loss exceeds this factor times the 90th percentile of the last 64 losses; "
        "0: never",
        effect="course",
        at_least=0,
    )


class Line(TypedDict):
    """A line of metrics.jsonl; its other keys are metrics."""

    step: int


class MetricsLog:
    """One line of metrics.jsonl per logged step, each step once, also after a resume.

    Values may still be on the device: they are fetched by `flush`, which the loop
    calls when the device has its next step to work on.
    """

    def __init__(self, workdir: Path, config: LogOptions, *, step: int, write: bool = True):
        """Opens the log.

        Args:
          workdir: workdir of the run.
          config: `config.log`, which says whether to write event files too.
          step: step of the state that the run starts from; lines of later steps are dropped,
            as those steps happen again.
          write: whether this process writes files.
        """
        self._pending: dict[int, dict[str, Any]] = {}
        self._file = self._events = None
        self.last: dict[str, float] = {}  # newest value of every metric
        path = workdir / "metrics.jsonl"
        lines = jsonl.read(path, Line, dict[str, float | None], aside=write)
        kept = [line for line in lines if line["step"] <= step]
        for line in kept:
            self.last.update({name: np.nan if v is None else v for name, v in line.items()})
        if write:
            jsonl.replace(path, kept)
            self._file = jsonl.Appender(path)
            if config.tensorboard:
                self._events = Events(workdir, purge_step=step + 1 if step else None)

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Adds to the line of `step`."""
        self._pending.setdefault(step, {}).update(metrics)

    def flush(self, before: int | None = None, *, sync: bool = False) -> None:
        """Writes the lines of all steps, or of those below `before`; `sync`: wait for the disk."""
        for step in sorted(self._pending):
            if before is None or step < before:
                self._write(step, self._pending.pop(step))
        if sync and self._file:
            self._file.sync()

    def _write(self, step: int, metrics: dict[str, Any]) -> None:
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        self.last.update(values, step=step)
        if self._file:
            self._file.write(dict(step=step, **jsonl.finite(values)))
        if self._events:
            self._events.add(step, values)

    def close(self) -> None:
        """Writes the pending lines and closes the files."""
        self.flush()
        for output in (self._file, self._events):
            if output:
                output.close()
        self._file = self._events = None


class Events:
    """TensorBoard's event files, written in a thread.

    Importing the library that writes them takes seconds. The thread does so at the first
    write, while the device works, so that no step is delayed. The first error ends the event
    files with a line in the log; the run goes on without them.
    """

    def __init__(self, workdir: Path, *, purge_step: int | None):
        """Opens nothing yet; TensorBoard discards earlier events from `purge_step` on."""
        self._workdir, self._purge_step = workdir, purge_step
        self._writer: Any = None
        self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")

    def add(self, step: int, values: dict[str, float]) -> None:
        """Queues the values of a step."""
        self._thread.submit(self._attempt, lambda: self._write(step, values))

    def _attempt(self, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            act()
        except OSError as error:
            self._failed = True
            log.error("%s: no more TensorBoard events: %s", self._workdir, reason(error))

    def _write(self, step: int, values: dict[str, float]) -> None:
        # SummaryWriter would write in another thread, whose failure makes its queue block.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        if self._writer is None:
            self._writer = EventsWriter(str(self._workdir / "events"))
            if self._purge_step:
                start = SessionLog(status=SessionLog.START)
                self._put(Event(step=self._purge_step, session_log=start))
        for name, value in values.items():
            self._put(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def _put(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def close(self) -> None:
        """Waits until everything is written."""
        self._thread.submit(self._attempt, lambda: self._writer and self._writer.close())
        self._thread.shutdown()

"""The interface of trackers: where a run's metrics, images and histograms go.

A tracker is a frozen dataclass whose fields are its options, registered in `TRACKERS`. Process 0
opens it in a thread of its own; what fails there ends that tracker with a line in the log, never
the run.
"""

import abc
import dataclasses
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, TypedDict

import numpy as np

from vit_jax import schema, spec
from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.registry import Registry
from vit_jax.text import reason

log = logging.getLogger(__name__)

Option = bool | int | float | str | tuple | list | dict | None


@dataclasses.dataclass(frozen=True)
class Start:
    """What a tracker is opened with.

    Attributes:
      workdir: workdir of the run.
      step: step of the state that this start of the run begins with; 0: a new run. What an
        earlier start has written of later steps comes again.
      options: full name -> value of the run's options; {} where they are not known.
    """

    workdir: Path
    step: int
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often values lie between limits.

    Attributes:
      limits: upper limit of each bin, ascending.
      counts: number of values in each bin.
    """

    limits: np.ndarray
    counts: np.ndarray


class Writer(abc.ABC):
    """An open tracker. Its methods are called from one thread, step by step."""

    @abc.abstractmethod
    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of a step; called once for each logged step of a start."""

    def images(self, step: int, name: str, images: np.ndarray) -> None:  # noqa: B027  optional
        """Writes images, uint8 (N, H, W, 3)."""

    def histograms(self, step: int, found: dict[str, Histogram]) -> None:  # noqa: B027  optional
        """Writes histograms by name."""

    def close(self, finished: bool) -> None:  # noqa: B027  optional
        """Ends writing; `finished`: the run is done, not only this start of it."""


@dataclasses.dataclass(frozen=True)
class Tracker(abc.ABC):
    """The options of a tracker.

    Attributes:
      title: name in messages.
      package: Python package that it needs; "": none beside those of vit_jax.
      extra: extra of vit_jax that installs the package.
    """

    title: ClassVar[str] = "metrics"
    package: ClassVar[str] = ""
    extra: ClassVar[str] = "trackers"

    def check(self) -> None:
        """Refuses what cannot work, before the run begins.

        Raises:
          InputError: the package is missing, or an option is wrong.
        """
        if not self.package:
            return
        found = importlib.util.find_spec(self.package)
        # A folder of that name, such as ./wandb with earlier runs, is a package without a file.
        if found is None or found.origin is None:
            raise InputError(
                f"config.log.trackers: {self.package} is not installed; "
                f"pip install 'vit_jax[{self.extra}]'"
            )

    @abc.abstractmethod
    def open(self, start: Start) -> Writer:
        """Opens the tracker; called in its thread, with the first metrics."""


TRACKERS: Registry[Callable[..., Tracker]] = Registry(
    "tracker",
    "vit_jax.train.log.trackers.csv_file",
    "vit_jax.train.log.trackers.mlflow_run",
    "vit_jax.train.log.trackers.wandb_run",
)


def create_trackers(names: Sequence[str]) -> list[Tracker]:
    """The trackers that `config.log.trackers` names.

    Raises:
      InputError: an unknown name, wrong arguments, or a package is missing.
    """
    if isinstance(names, str):
        names = (names,)
        alone = [name.strip() for name in names[0].split(",")]
        if len(alone) > 1 and all(map(str.isidentifier, alone)):
            raise InputError(
                f"config.log.trackers {names[0]!r} is not understood; write several trackers as "
                f"{tuple(alone)}"
            )
    found: list[Tracker] = []
    kinds = []
    for text in names:
        if not isinstance(text, str):
            raise InputError(f"config.log.trackers: {text!r} is no name; give names in quotes")
        tracker = spec.create(TRACKERS, text, "config.log.trackers")
        kinds.append(spec.parse(text, "config.log.trackers")[0])
        if kinds.count(kinds[-1]) > 1:
            raise InputError(f"config.log.trackers names {kinds[-1]!r} twice; name it once")
        tracker.check()
        found.append(tracker)
    return found


class Trackers:
    """All trackers of a run, each in a thread of its own."""

    def __init__(self, trackers: Sequence[Tracker], start: Start):
        """Opens nothing before the first metrics: what imports take happens between steps.

        Imports in another thread would slow the compilation of the first step.
        """
        self._threads = [_Thread(tracker, start) for tracker in trackers]
        self._early: list[tuple[int, str, np.ndarray]] | None = []  # images before the metrics

    def __bool__(self) -> bool:
        return bool(self._threads)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Queues the metrics of a step."""
        self._release()
        for thread in self._threads:
            thread.call(lambda writer: writer.scalars(step, values))

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Queues images, uint8 (N, H, W, 3)."""
        if self._early is not None:
            self._early.append((step, name, images))
            return
        for thread in self._threads:
            thread.call(lambda writer: writer.images(step, name, images))

    def histograms(self, step: int, found: dict[str, Histogram]) -> None:
        """Queues histograms."""
        for thread in self._threads:
            thread.call(lambda writer: writer.histograms(step, found))

    def close(self, finished: bool) -> None:
        """Waits until everything is written."""
        self._release()
        for thread in self._threads:
            thread.close(finished)
        self._threads = []

    def _release(self) -> None:
        """Queues the images that came before the first metrics."""
        early, self._early = self._early or (), None
        for step, name, images in early:
            self.images(step, name, images)


class _Thread:
    """A tracker with its thread. The first error ends the tracker, with a line in the log."""

    def __init__(self, tracker: Tracker, start: Start):
        self._tracker, self._start = tracker, start
        self._writer: Writer | None = None
        self._failed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"tracker {tracker.title}")

    def call(self, act: Callable[[Writer], None]) -> None:
        self._pool.submit(self._attempt, act)

    def _attempt(self, act: Callable[[Writer], None]) -> None:
        if self._failed:
            return
        try:
            if self._writer is None:
                self._writer = self._tracker.open(self._start)
            act(self._writer)
        except Exception as error:  # of any library: the run goes on without it
            self._failed = True
            log.error("%s: no more %s: %s", self._start.workdir, self._tracker.title, reason(error))

    def close(self, finished: bool) -> None:
        if self._writer or not self._failed:
            self._pool.submit(self._end, finished)
        self._pool.shutdown()

    def _end(self, finished: bool) -> None:
        if self._writer is not None:
            self._attempt(lambda writer: writer.close(finished))


class _Stored(TypedDict):
    id: str
    step: int


class Memory:
    """What a tracker keeps in the workdir between the starts of a run: trackers/NAME.json.

    Attributes:
      id: identity of the run in the tracker's own store; "": none yet.
      step: last step that was written; steps up to it are not written again.
    """

    def __init__(self, workdir: Path, name: str):
        """Reads the file; a missing or damaged one begins a new run."""
        self._path = workdir / "trackers" / f"{name}.json"
        self.id, self.step = "", 0
        try:
            stored = schema.check(schema.parse(self._path.read_bytes()), _Stored)
            self.id, self.step = stored["id"], stored["step"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s: a new run is begun there: %s", self._path, reason(error))
        self._earlier = self.step

    def fresh(self, step: int) -> bool:
        """Whether no earlier start has written this step."""
        return step > self._earlier

    def note(self, step: int) -> None:
        """Stores the identity and `step`; call it before writing: a kill never doubles a step.

        Raises:
          OSError: the file cannot be written.
        """
        self.step = max(step, self.step)
        self._path.parent.mkdir(exist_ok=True)
        write_atomic(self._path, json.dumps(dict(id=self.id, step=self.step)) + "\n")

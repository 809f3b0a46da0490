"""Reports of a run: metrics.jsonl, TensorBoard events and other trackers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from vit_jax import jsonl
from vit_jax.errors import InputError
from vit_jax.options import option
from vit_jax.train.log.histograms import from_counts
from vit_jax.train.log.trackers import Start, Tracker, Trackers, create_trackers
from vit_jax.train.log.trackers.tensorboard import TensorBoard


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """`config.log`."""

    every: int = option(
        50, "number of steps between lines of metrics.jsonl", effect="course", at_least=1
    )
    tensorboard: bool = option(
        True, "write TensorBoard event files into the workdir", effect="course"
    )
    images: int = option(
        8,
        "images of the first batch, after augmentation, for TensorBoard and other trackers; at "
        "most 16; 0: none",
        effect="course",
        at_least=0,
        below=17,
    )
    histograms: int = option(
        0,
        "number of steps between histograms of parameters and gradients in TensorBoard and wandb; "
        "0: none",
        effect="course",
        at_least=0,
    )
    trackers: tuple[str, ...] = option(
        (),
        "other places for the metrics: csv, mlflow, wandb, or a tracker of your own, with "
        "arguments in parentheses",
        effect="course",
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


def check_log(options: LogOptions) -> None:
    """Refuses trackers that cannot work, and options that would be ignored.

    Raises:
      InputError: names the tracker or the option.
    """
    create_trackers(options.trackers)
    if options.histograms and not (options.tensorboard or options.trackers):
        raise InputError(
            "config.log.histograms needs config.log.tensorboard or a tracker in config.log.trackers"
        )


class Line(TypedDict):
    """A line of metrics.jsonl; its other keys are metrics."""

    step: int


class MetricsLog:
    """One line of metrics.jsonl per logged step, each step once, also after a resume.

    Values may still be on the device: they are fetched by `flush`, which the loop
    calls when the device has its next step to work on.
    """

    def __init__(
        self,
        workdir: Path,
        config: LogOptions,
        *,
        step: int,
        write: bool = True,
        options: Mapping[str, Any] | None = None,
    ):
        """Opens the log.

        Args:
          workdir: workdir of the run.
          config: `config.log`, which says which trackers to write to.
          step: step of the state that the run starts from; lines of later steps are dropped,
            as those steps happen again.
          write: whether this process writes files.
          options: full name -> value of the run's options, for trackers.
        """
        self._pending: dict[int, dict[str, Any]] = {}
        self._histograms: dict[int, dict[str, Any]] = {}
        self._file: jsonl.Appender | None = None
        trackers: list[Tracker] = []
        self.last: dict[str, float] = {}  # newest value of every metric
        path = workdir / "metrics.jsonl"
        lines = jsonl.read(path, Line, dict[str, float | None], aside=write)
        self.earlier = [line for line in lines if line["step"] <= step]  # lines of earlier starts
        for line in self.earlier:
            self.last.update({name: np.nan if v is None else v for name, v in line.items()})
        if write:
            jsonl.replace(path, self.earlier)
            self._file = jsonl.Appender(path)
            trackers = [TensorBoard()] if config.tensorboard else []
            trackers += create_trackers(config.trackers)
        self._trackers = Trackers(trackers, Start(workdir, step, options or {}))

    @property
    def tracked(self) -> bool:
        """Whether there is a tracker, which takes images and histograms."""
        return bool(self._trackers)

    def evaluated(self, step: int) -> bool:
        """Whether an earlier start has evaluated the state after `step`."""
        lines = [line for line in self.earlier if line["step"] == step]
        return any(name.startswith("eval/") for line in lines for name in line)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Gives images, uint8 (N, H, W, 3), to the trackers."""
        self._trackers.images(step, name, images)

    def histograms(self, step: int, counts: dict[str, Any]) -> None:
        """Gives histograms to the trackers when the line of `step` is written.

        Args:
          step: step of the histograms.
          counts: name -> numbers of values, as `histograms.count` returns them.
        """
        if self.tracked:
            self._histograms[step] = counts

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Adds to the line of `step`."""
        self._pending.setdefault(step, {}).update(metrics)

    def flush(self, before: int | None = None, *, sync: bool = False) -> None:
        """Writes the lines of all steps, or of those below `before`; `sync`: wait for the disk."""
        for step in sorted(self._pending):
            if before is None or step < before:
                self._write(step, self._pending.pop(step))
        for step in sorted(self._histograms):
            if before is None or step < before:
                counts = self._histograms.pop(step)
                self._trackers.histograms(
                    step, {name: from_counts(np.asarray(found)) for name, found in counts.items()}
                )
        if sync and self._file:
            self._file.sync()

    def _write(self, step: int, metrics: dict[str, Any]) -> None:
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        self.last.update(values, step=step)
        if self._file:
            self._file.write(dict(step=step, **jsonl.finite(values)))
        self._trackers.scalars(step, values)

    def close(self, finished: bool = False) -> None:
        """Writes the pending lines and closes the files; `finished`: the run is done."""
        self.flush()
        if self._file:
            self._file.close()
        self._file = None
        self._trackers.close(finished)

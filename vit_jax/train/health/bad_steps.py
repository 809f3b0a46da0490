"""Reports about steps whose loss or gradient is not finite."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import data
from vit_jax.files import write_atomic
from vit_jax.text import some
from vit_jax.train.run import Run
from vit_jax.trees import named_leaves

log = logging.getLogger(__name__)

FEW = 4  # names in a line of text; the file has all


class BadSteps:
    """The latest consecutive steps whose loss or gradient was not finite."""

    def __init__(self, run: Run, source: Any, workdir: Path, *, before: int = 0, write: bool):
        """Notes no bad step yet.

        Args:
          run: the run.
          source: training data of the run.
          workdir: workdir of the run.
          before: number of bad steps at the end of the earlier start that the run goes on from.
          write: whether this process writes the report.
        """
        self._before = before
        self._run, self._source = run, source
        self._file = workdir / "non_finite.json"
        self._write = write
        self._names = list(named_leaves(run.abstract.params))
        self._steps: list[dict[str, Any]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes and logs a bad step."""
        finite = np.asarray(metrics["finite_gradients"])
        entry = dict(
            step=step,
            loss=str(np.asarray(metrics["loss"])),
            grad_norm=str(np.asarray(metrics["grad_norm"])),
            parameters=[name for name, fine in zip(self._names, finite, strict=True) if not fine],
        )
        self._steps.append(entry)
        log.warning("step %d: %s; update skipped", step, _what(entry))

    def __bool__(self) -> bool:
        return self.count > 0

    @property
    def count(self) -> int:
        """The number of consecutive bad steps up to now."""
        return self._before + len(self._steps)

    def clear(self) -> None:
        """Forgets the bad steps, after a good one."""
        self._before = 0
        self._steps.clear()

    def report(self, sound: Sequence[int]) -> str:
        """Writes the report to the workdir and returns it in a line.

        Args:
          sound: steps of the checkpoints that were not written during bad steps.
        """
        kept = "There is no sound checkpoint"
        if sound:
            kept = f"The newest sound checkpoint is of step {max(sound)}"
        if not self._steps:
            return (
                f"the last {self.count} steps of the run were not finite (loss or gradient); see "
                f"{self._file}. {kept}"
            )
        for entry in self._steps:
            entry["examples"] = self._examples(entry["step"])
        first, last = self._steps[0], self._steps[-1]
        if self._write:
            try:
                write_atomic(self._file, json.dumps(dict(steps=self._steps), indent=2) + "\n")
            except OSError as error:
                log.error("%s: %s", self._file, error.strerror)
        index = [name.split(":")[0] for name in last["examples"]]
        steps = f"step {last['step']} was"
        if len(self._steps) > 1:
            count = len(self._steps)
            steps = f"{count} steps in a row, {first['step']} to {last['step']}, were"
        return (
            f"{steps} not finite (loss or gradient); the last: {_what(last)}; examples "
            f"{some(index, FEW)} of {self._source.name}; all of it in {self._file}. "
            f"{kept}. Lower the learning rate, look at these examples, or "
            "find the operation with --config.debug=True"
        )

    def _examples(self, step: int) -> list[str]:
        """The examples in the batch of a step, as the source describes them."""
        config = self._run.config
        index = data.planned_examples(
            self._source,
            batch_size=config.batch_size,
            seed=config.seed,
            step=step - 1,
            shuffle=config.data.shuffle,
        )
        return [f"{i}: {self._source.describe(i)}" for i in map(int, index)]


def _what(entry: dict[str, Any]) -> str:
    if entry["parameters"]:
        return f"loss {entry['loss']}, gradients not finite of {some(entry['parameters'], FEW)}"
    what = f"loss {entry['loss']}, norm of the gradient {entry['grad_norm']}"
    if all(map(math.isfinite, map(float, (entry["loss"], entry["grad_norm"])))):
        what += ", and the optimizer's state would not be finite"
    return what

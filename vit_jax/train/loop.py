"""The story of a training run."""

import collections
import contextlib
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.analyze import flops, hardware
from vit_jax.checkpoint.manager import Checkpoints, read_meta
from vit_jax.errors import NonFiniteError, Preempted
from vit_jax.parallel.engines import create_engine
from vit_jax.train.clock import Clock
from vit_jax.train.inputs import (
    Evaluation,
    TrainingBatches,
    open_evaluations,
    open_training_data,
)
from vit_jax.train.metrics import MetricsLog, Progress
from vit_jax.train.preemption import PreemptionWatch
from vit_jax.train.setup import Run, first_state, prepare, steps_of
from vit_jax.train.state import TrainState
from vit_jax.train.workdir import open_workdir

log = logging.getLogger(__name__)

# Steps dispatched ahead of the oldest unfinished one: the device never waits for
# Python, and batches do not pile up in its memory.
STEPS_IN_FLIGHT = 2


def train(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Trains as `config` says, going on from the workdir's newest checkpoint if it has one.

    Args:
      config: see vit_jax.config.
      workdir: where checkpoints, metrics and the summary go.

    Returns:
      The summary, as written to summary.json.

    Raises:
      InputError: wrong config or data; nothing was overwritten.
      Preempted: stopped early, state saved.
      NonFiniteError: see config.max_skipped_steps.
    """
    clock = Clock()
    with clock.phase("start"):
        first_process = jax.process_index() == 0
        engine = create_engine(config.parallel)
        source, pp, dataset = open_training_data(config)
        run = prepare(config, dataset, engine)
        evals = open_evaluations(run, pp)
        workdir = open_workdir(workdir, config, write=first_process)
        checkpoints = Checkpoints(workdir, config.checkpoint)
        meta = describe(run, source, pp)
        check_source(source, checkpoints)
        state = first_state(run, checkpoints)
        step = int(state.step)
        metrics = MetricsLog(
            workdir, step=step, tensorboard=config.log.tensorboard, active=first_process
        )
    log.info("%s", _opening_line(run, source, step))
    for line in engine.describe(run.abstract.params):
        log.info("%s", line)
    loop = Loop(run, clock, metrics, Progress(run.total_steps, active=first_process))
    every = {
        "eval": steps_of(config.eval_every, "eval_every", config, dataset),
        "checkpoint": steps_of(config.checkpoint.every, "checkpoint.every", config, dataset),
    }
    batches = TrainingBatches(run, source, pp, start_step=step)
    with contextlib.closing(PreemptionWatch()) as preemption, contextlib.closing(batches):
        while step < run.total_steps:
            state = loop.step(step, state, batches)
            step += 1
            last = step == run.total_steps
            preempted = preemption.reached(step) and not last
            if last or _due(step, every["eval"]):
                loop.evaluate(step, state, evals)
            if last or preempted or _due(step, every["checkpoint"]):
                loop.save(step, state, checkpoints, meta)
            if preempted:
                checkpoints.close()
                metrics.close()
                raise Preempted(f"preempted after step {step} of {run.total_steps}, state saved")
    with clock.phase("checkpoint"):
        checkpoints.close()
    metrics.close()
    return write_summary(run, workdir, metrics.last, clock, first_process)


@dataclasses.dataclass
class Loop:
    """What happens around the compiled step: data, metrics, evaluation, checkpoints."""

    run: Run
    clock: Clock
    metrics: MetricsLog
    progress: Progress

    def __post_init__(self):
        self._in_flight: collections.deque = collections.deque()
        self._compiled = False
        self._images_since = 0
        self._busy_since = self._busy()
        self._data_since = 0.0
        self._flops = flops.train_flops(self.run.model_config)
        self._peak = hardware.peak_flops(jax.devices()[0])

    def step(self, step: int, state: TrainState, batches: TrainingBatches) -> TrainState:
        """Runs one step and, some steps later, looks at what came of it."""
        with self.clock.phase("data"):
            batch = next(batches)
        # The first call compiles.
        with self.clock.phase("step" if self._compiled else "compile"):
            state, metrics = self.run.train_step(state, batch)
            self._compiled = True
        with self.clock.phase("step"):
            self._in_flight.append((step + 1, metrics))
            if len(self._in_flight) > STEPS_IN_FLIGHT:
                self._land(*self._in_flight.popleft())
        self._images_since += self.run.config.batch_size
        if _due(step + 1, self.run.config.log.every) or step + 1 == self.run.total_steps:
            self._log(step + 1, metrics, batches.unreadable)
        self.metrics.flush(before=step + 1 - STEPS_IN_FLIGHT)
        return state

    def evaluate(self, step: int, state: TrainState, evals: list[Evaluation]) -> None:
        """Evaluates on every data set of the config."""
        self.settle()
        with self.clock.phase("eval"):
            for evaluation in evals:
                params = state.ema if evaluation.use_ema else state.params
                result = evaluation.run(params)
                named = {f"eval/{evaluation.name}/{key}": v for key, v in result.items()}
                self.metrics.add(step, named)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in result.items())
                log.info("step %d: %s %s", step, evaluation.name, shown)
            self.metrics.flush()

    def save(self, step: int, state: TrainState, checkpoints: Checkpoints, meta: dict) -> None:
        """Starts writing a checkpoint; lines of metrics up to it are on disk before."""
        self.settle()
        with self.clock.phase("checkpoint"):
            self.metrics.flush()
            state = self.run.engine.globalize(state)
            checkpoints.save(step, state.items(), meta, self.metrics.last)

    def settle(self) -> None:
        """Waits for all steps in flight."""
        with self.clock.phase("step"):
            while self._in_flight:
                self._land(*self._in_flight.popleft())

    def _land(self, step: int, metrics: dict[str, jax.Array]) -> None:
        skipped = int(metrics["skipped_in_a_row"])
        if skipped:
            log.warning("step %d: loss or gradient not finite; update skipped", step)
        if skipped >= self.run.config.max_skipped_steps:
            raise NonFiniteError(
                f"steps {step - skipped + 1} to {step} had a loss or gradient that is not finite"
                f" (loss {float(np.asarray(metrics['loss']))}); lower the learning rate, or look "
                "at the data; the last checkpoint is from before"
            )

    def _log(self, step: int, metrics: dict[str, jax.Array], unreadable: int) -> None:
        busy = self._busy()
        seconds = max(busy - self._busy_since, 1e-9)
        speed = self._images_since / seconds
        waited = self.clock.seconds.get("data", 0.0)
        values = {f"train/{name}": value for name, value in metrics.items()}
        values["train/images_per_second"] = speed
        values["train/unreadable"] = unreadable
        values["train/data_wait"] = (waited - self._data_since) / seconds
        if self._peak:
            values["train/mfu"] = speed * self._flops / (self._peak * jax.device_count())
        self.metrics.add(step, values)
        self._busy_since, self._data_since, self._images_since = busy, waited, 0
        steps_left = self.run.total_steps - step
        left = steps_left * self.run.config.batch_size / speed
        self.progress.show(step, self.metrics.last, left)

    def _busy(self) -> float:
        """Seconds spent training: compiling, evaluating and saving do not count."""
        return sum(self.clock.seconds.get(phase, 0.0) for phase in ("data", "step"))


def describe(run: Run, source: Any, pp: Any) -> dict[str, Any]:
    """What a checkpoint knows about itself: model, preprocessing, labels, data."""
    return dict(
        model=dict(name=run.config.model.name, **dataclasses.asdict(run.model_config)),
        pp=str(pp.deterministic()),
        labels=list(source.label_names),
        data=dict(name=source.name, split=source.split, fingerprint=source.fingerprint()),
        config=run.config.to_dict(),
    )


def check_source(source: Any, checkpoints: Checkpoints) -> None:
    """Refuses to go on with training data that are not those of the checkpoint.

    Raises:
      InputError: the source has shrunk or changed since.
    """
    step = checkpoints.latest()
    if step is not None:
        recorded = read_meta(checkpoints.directory / str(step))["data"]
        since = f"step {step} of the run in {checkpoints.directory.parent}"
        data.check_unchanged(source, recorded["fingerprint"], since)


def write_summary(
    run: Run, workdir: Path, last: dict[str, float], clock: Clock, write: bool
) -> dict[str, Any]:
    """summary.json: where the run ended and what it took."""
    summary = dict(
        model=run.config.model.name,
        params=sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params)),
        steps=run.total_steps,
        metrics=last,
        seconds={name: round(value, 3) for name, value in clock.seconds.items()},
        wall_seconds=round(clock.total(), 3),
        devices=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        jax=jax.__version__,
    )
    if write:
        (workdir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _opening_line(run: Run, source: Any, step: int) -> str:
    params = sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params))
    start = f"going on from step {step}" if step else "from the start"
    return (
        f"{run.config.model.name}, {params:,} parameters, {source.size:,} images of {source.name}, "
        f"{run.total_steps:,} steps of {run.config.batch_size} on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} devices, {start}"
    )


def _due(step: int, every: int | None) -> bool:
    return bool(every) and step % every == 0

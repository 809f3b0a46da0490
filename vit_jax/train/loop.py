"""The story of a training run."""

import collections
import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.analyze import flops, hardware
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.errors import InputError, NonFiniteError, Preempted
from vit_jax.evaluate.classify import classify
from vit_jax.parallel.engines import create_engine
from vit_jax.parallel.mesh import check_batch_size
from vit_jax.train.clock import Clock
from vit_jax.train.metrics import MetricsLog, Progress
from vit_jax.train.preemption import PreemptionWatch
from vit_jax.train.prefetch import prefetch
from vit_jax.train.resident import resident_batches
from vit_jax.train.setup import Dataset, Run, first_state, prepare, steps_of
from vit_jax.train.state import TrainState
from vit_jax.train.step import make_eval_step
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
        source, pp = open_training_data(config)
        dataset = Dataset(source.size, source.num_classes, pp.image_size, pp.mean, pp.std)
        run = prepare(config, dataset, engine)
        evals = open_evaluations(run, pp)
        workdir = open_workdir(workdir, config, write=first_process)
        checkpoints = Checkpoints(workdir, config.checkpoint)
        state = first_state(run, checkpoints)
        step = int(state.step)
        metrics = MetricsLog(
            workdir, step=step, tensorboard=config.log.tensorboard, active=first_process
        )
    log.info("%s", _opening_line(run, source, step))
    for line in engine.describe(run.abstract.params):
        log.info("%s", line)
    loop = Loop(run, clock, metrics, Progress(run.total_steps, active=first_process))
    meta = describe(run, source, pp)
    every = {
        "eval": steps_of(config.eval_every, "eval_every", config, dataset),
        "checkpoint": steps_of(config.checkpoint.every, "checkpoint.every", config, dataset),
    }
    batches = training_batches(run, source, pp, start_step=step)
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

    def step(self, step: int, state: TrainState, batches: Iterator[dict]) -> TrainState:
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
            self._log(step + 1, metrics)
        self.metrics.flush(before=step + 1 - STEPS_IN_FLIGHT)
        return state

    def evaluate(self, step: int, state: TrainState, evals: list["Evaluation"]) -> None:
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

    def _log(self, step: int, metrics: dict[str, jax.Array]) -> None:
        busy = self._busy()
        seconds = max(busy - self._busy_since, 1e-9)
        speed = self._images_since / seconds
        waited = self.clock.seconds.get("data", 0.0)
        values = {f"train/{name}": value for name, value in metrics.items()}
        values["train/images_per_second"] = speed
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


def open_training_data(config: ConfigDict) -> tuple[Any, Any]:
    """The training source and its preprocessing."""
    options = config.data
    source = data.open_source(
        options.source,
        options.split,
        data_dir=options.data_dir,
        multi_label=options.multi_label,
    )
    if options.multi_label and config.loss.name != "sigmoid":
        raise InputError("config.data.multi_label wants config.loss.name='sigmoid'")
    return source, data.parse(options.pp)


def training_batches(run: Run, source: Any, pp: Any, *, start_step: int) -> Iterator[dict]:
    """Global batches on the devices, from `start_step` on."""
    config, engine = run.config, run.engine
    order = dict(
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        shuffle=config.data.shuffle,
    )
    if config.data.resident:
        return resident_batches(source, pp, engine, **order)
    batches = data.train_batches(
        source,
        pp,
        **order,
        rows=engine.rows(config.batch_size),
        threads=config.data.threads,
        prefetch=config.data.prefetch,
    )

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        arrays = {name: batch[name] for name in ("image", "label")}
        return engine.put_batch(arrays, config.batch_size)

    return prefetch(batches, place, depth=config.data.prefetch)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One data set of config.evals, ready to be evaluated."""

    name: str
    use_ema: bool
    run: Callable[[Any], dict[str, float]]  # of the parameters


def open_evaluations(run: Run, train_pp: Any) -> list[Evaluation]:
    """The data sets of config.evals; wrong ones are refused before training starts.

    Raises:
      InputError: as for training data, or EMA is asked for and not kept.
    """
    step = run.engine.compile_eval(functools.partial(make_eval_step, run.task))
    return [
        _open_evaluation(run, step, train_pp, name, entry)
        for name, entry in sorted(run.config.evals.items())
    ]


def _open_evaluation(
    run: Run, step: Callable, train_pp: Any, name: str, entry: ConfigDict
) -> Evaluation:
    config, engine = run.config, run.engine
    if entry.use_ema and not config.optimizer.ema_decay:
        raise InputError(f"config.evals.{name}.use_ema wants config.optimizer.ema_decay above 0")
    batch_size = entry.batch_size or config.batch_size
    check_batch_size(batch_size, engine.batch_shards, name=f"config.evals.{name}.batch_size")
    source = data.open_source(
        entry.source or config.data.source,
        entry.split,
        data_dir=config.data.data_dir,
        multi_label=config.data.multi_label,
    )
    if source.num_classes > run.model_config.num_classes:
        raise InputError(
            f"config.evals.{name}: {source.name} has labels of {source.num_classes} classes, "
            f"the model has {run.model_config.num_classes}"
        )
    pp = data.parse(entry.pp) if entry.pp else train_pp.deterministic()
    if (pp.mean, pp.std) != (train_pp.mean, train_pp.std):
        raise InputError(
            f"config.evals.{name}.pp normalises pixels differently from config.data.pp; make "
            "both end in the same value_range or normalize"
        )
    if pp.image_size != run.model_config.image_size:
        raise InputError(
            f"config.evals.{name}.pp yields images of {pp.image_size}, "
            f"the model takes {run.model_config.image_size}"
        )

    def evaluate(params: Any) -> dict[str, float]:
        batches = data.eval_batches(
            source,
            pp,
            batch_size=batch_size,
            rows=engine.rows(batch_size),
            threads=config.data.threads,
        )
        return classify(step, engine, params, batches, batch_size)

    return Evaluation(name, entry.use_ema, evaluate)


def describe(run: Run, source: Any, pp: Any) -> dict[str, Any]:
    """What a checkpoint knows about itself: model, preprocessing, labels, data."""
    return dict(
        model=dict(name=run.config.model.name, **dataclasses.asdict(run.model_config)),
        pp=str(pp.deterministic()),
        labels=list(source.label_names),
        data=dict(name=source.name, split=source.split, size=source.size),
        config=run.config.to_dict(),
    )


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

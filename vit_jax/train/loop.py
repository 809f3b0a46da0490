"""The training loop: a run from its start to its summary."""

import collections
import contextlib
import dataclasses
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from vit_jax.checkpoint.interval import SaveInterval
from vit_jax.checkpoint.local import LocalCopies
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.durations import due
from vit_jax.errors import InputError, NonFiniteError, NotSavedError
from vit_jax.options import flatten
from vit_jax.parallel import same
from vit_jax.parallel.distributed import make_cpu_devices
from vit_jax.train.batches import TrainingBatches, open_training_data
from vit_jax.train.compiled.step import is_loaded, load_step
from vit_jax.train.config import check
from vit_jax.train.evaluations import RunEvaluation, open_evaluations
from vit_jax.train.health.bad_steps import BadSteps
from vit_jax.train.health.debug import find_cause
from vit_jax.train.health.early_stop import EarlyStop
from vit_jax.train.health.network import check_network
from vit_jax.train.health.preemption import PreemptionWatch, lost_since
from vit_jax.train.health.spikes import SpikeWatch
from vit_jax.train.health.straggler import Stragglers
from vit_jax.train.health.watchdog import Watchdog
from vit_jax.train.log.clock import Clock
from vit_jax.train.log.goodput import Goodput
from vit_jax.train.log.images import show_batch
from vit_jax.train.log.metrics import MetricsLog
from vit_jax.train.log.progress import Progress, shown_log
from vit_jax.train.log.speed import Speed
from vit_jax.train.log.step_values import training_values
from vit_jax.train.log.summary import announce, describe, write_summary
from vit_jax.train.progressive.stages import stage_at
from vit_jax.train.progressive.steps import StagedSteps
from vit_jax.train.resume import announce_schedule, check_length, finished_summary
from vit_jax.train.run import Arrange, Run, arranged, given_engine, intervals, prepare
from vit_jax.train.start import check_palette, first_state, preprocessing_known, starting_weights
from vit_jax.train.state import TrainState
from vit_jax.train.workdir import claim_workdir, compare_starts, only_run_in, open_workdir

STEPS_IN_FLIGHT = 2  # ahead of the oldest: no waiting for Python, no batches that pile up


def train(
    config: ConfigDict,
    workdir: str,
    *,
    started: float | None = None,
    compiled: str | None = None,
    arrange: Arrange | None = None,
) -> dict[str, Any]:
    """Trains as `config` says; resumes from the workdir's newest checkpoint if there is one.

    Args:
      config: config of the run; see vit_jax.config.
      workdir: directory for checkpoints, metrics and the summary.
      started: `time.monotonic()` from which the run's time counts; None: now.
      compiled: file of `vit_jax plan --save` with the compiled step; None: compile it.
      arrange: function that chooses the layout where `config.parallel.layout` is auto.

    Returns:
      The summary, as written to summary.json. A run that is done already returns it as it is.

    Raises:
      InputError: wrong config or data; nothing was overwritten.
      KeyboardInterrupt, Preempted: stopped early, state saved.
      NotSavedError: stopped early, state not saved.
      NonFiniteError: too many consecutive steps were not finite (config.max_skipped_steps), or
        the last one was not.
    """
    check(config)
    clock = Clock(started)
    with contextlib.ExitStack() as stack:
        stack.enter_context(same.telling_others())
        stack.enter_context(shown_log())
        make_cpu_devices(config.parallel.cpu_devices)
        compare_starts(config, workdir)
        preemption = stack.enter_context(contextlib.closing(PreemptionWatch()))
        with clock.phase("start"):
            begun = _begin(config, workdir, clock, preemption, stack, compiled, arrange)
        if isinstance(begun, dict):
            return begun
        loop, evals = begun
        if loop.evaluation_failed:
            loop.evaluate(evals)
        while not loop.finished:
            if preemption.reached(loop.step):
                loop.stop(preemption)
            loop.advance()
            evaluated = loop.finished or due(loop.step, loop.eval_every)
            if evaluated:
                loop.evaluate(evals)
            # The best can only be kept if what was evaluated is saved.
            best = evaluated and config.checkpoint.best
            if loop.finished or best or loop.interval.due(loop.step):
                loop.save(final=loop.finished)
            elif loop.local.due(loop.step):
                loop.save(local=True)
        return loop.end()


def _begin(
    config: ConfigDict,
    workdir: str,
    clock: Clock,
    preemption: PreemptionWatch,
    stack: contextlib.ExitStack,
    compiled: str | None,
    arrange: Arrange | None,
) -> tuple["Loop", list[RunEvaluation]] | dict[str, Any]:
    """Opens all that a run needs; `stack` closes it. Returns the summary of a run that is done.

    Nothing is written to the workdir before everything is accepted.
    """

    def opened(thing: Any) -> Any:
        return stack.enter_context(contextlib.closing(thing))

    first = jax.process_index() == 0
    progress = opened(Progress(config.log.progress, active=first, best_by=config.checkpoint.best))
    engine = given_engine(config, arrange)
    config, start = preprocessing_known(config, workdir)
    progress.stage(f"opening the data: {config.data.source}")
    source, pp, dataset = open_training_data(config)
    start = start or starting_weights(config, workdir)
    config = arranged(config, dataset, arrange)
    progress.stage("building the model and the step")
    run = load_step(compiled, prepare(config, dataset, engine, start.model if start else None))
    check_palette(run, workdir)
    evals = open_evaluations(run, source, pp)
    early_stop = EarlyStop(config.checkpoint)
    every = intervals(config, dataset)
    folder = open_workdir(workdir, config)
    devices = jax.local_device_count()
    same.compare({"the number of devices": devices, "--compiled given": bool(compiled)})
    stack.enter_context(only_run_in(folder))
    checkpoints = Checkpoints(folder, config.checkpoint)
    local = opened(LocalCopies(folder, config.checkpoint, every["checkpoint.local_every"]))
    newest = checkpoints.latest()
    progress.stage("setting up the state" if newest is None else f"restoring step {newest}")
    step, state, meta = first_state(run, checkpoints, local, source, start)
    check_length(run, folder, step)
    early_stop.restore(meta.get("early_stop"))
    if summary := finished_summary(run, folder, step, early_stop.done):
        return summary
    run = run.with_teacher(meta.get("teacher"))
    announce_schedule(run, folder, step, state.skipped, dataset.size)
    claim_workdir(folder, config)
    preemption.lost = lambda: lost_since(step, checkpoints.directory)
    unreadable = meta.get("unreadable", 0)
    options = dict(flatten(config.to_dict()))
    metrics = opened(MetricsLog(folder, config.log, step=step, write=first, options=options))
    progress.evaluated_before(metrics.earlier)
    if config.parallel.check_network:
        progress.stage("measuring the network")
        check_network(run.engine.mesh)
    loop = Loop(
        run,
        step,
        state,
        clock,
        goodput=opened(Goodput(folder, clock, write=first)),
        batches=opened(TrainingBatches(run, source, pp, start_step=step, unreadable=unreadable)),
        metrics=metrics,
        progress=progress,
        checkpoints=checkpoints,
        local=local.started(step),
        meta=describe(run, source, pp),
        eval_every=every["eval_every"],
        interval=SaveInterval(config.checkpoint, every["checkpoint.every"], step),
        bad_steps=BadSteps(run, source, folder, before=meta.get("bad_steps", 0), write=first),
        spikes=SpikeWatch(config.log.spike, meta.get("spikes")),
        early_stop=early_stop,
        watchdog=opened(Watchdog(config.watchdog, clock)),
    )
    announce(run, source, step)
    return loop, evals


@dataclasses.dataclass
class Loop:
    """A run under way: its state, and what happens around each step.

    Attributes:
      step: number of steps that led to `state`.
      state: state with which the next step begins.
    """

    run: Run
    step: int
    state: TrainState
    clock: Clock
    goodput: Goodput
    batches: TrainingBatches
    metrics: MetricsLog
    progress: Progress
    checkpoints: Checkpoints
    local: LocalCopies
    meta: dict[str, Any]  # metadata of checkpoints
    eval_every: int | None  # steps
    interval: SaveInterval
    bad_steps: BadSteps
    spikes: SpikeWatch
    early_stop: EarlyStop
    watchdog: Watchdog

    def __post_init__(self):
        self._in_flight: collections.deque = collections.deque()
        self._steps = StagedSteps(self.run.stages, self.run.abstract)
        self._evaluated = -1  # the last step with an evaluation
        self._speed = Speed(self.clock)
        self._stragglers = Stragglers(self.clock)

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or early stopping ends the run."""
        return self.step >= self.run.total_steps or self.early_stop.done

    @property
    def evaluation_failed(self) -> bool:
        """Whether an earlier start ended in its last evaluation; see `_ended_by`."""
        alone = jax.process_count() == 1
        return alone and self.finished and not self.metrics.evaluated(self.step)

    def advance(self) -> None:
        """Runs one step; its results are checked some steps later."""
        with self.clock.phase("data"):
            batch = next(self.batches)
        ready, training = self._steps.ready(self.step), self._training(self.step + 1)
        if not ready:
            self.watchdog.pause()
            self.progress.stage("" if is_loaded(self.run) else "compiling the training step")
            show_batch(self.metrics, self.run, batch, self.step + 1)
        with self.clock.phase(training if ready else "compile"):
            self.state, metrics = self._steps(self.step, self.state, batch)
        if not ready:
            self.progress.stage("")
        stage = stage_at(self.run.stages, self.step)
        self.step += 1
        self.progress.step(self.step, self.run.total_steps)
        with self.clock.phase(training):
            self._in_flight.append((self.step, metrics))
            if len(self._in_flight) > STEPS_IN_FLIGHT:
                self._land(*self._in_flight.popleft())
        if self.run.config.debug:
            self._debug(batch)
        batch_size = self.run.config.batch_size
        self._speed.add(batch_size, batch_size * self.run.step_flops(stage))
        if self._logs(self.step):
            self._log(metrics)
        if due(self.step, self.run.config.log.histograms):
            self.metrics.histograms(self.step, metrics["histograms"])
        self.metrics.flush(before=self.step - STEPS_IN_FLIGHT)

    def evaluate(self, evals: list[RunEvaluation]) -> None:
        """Evaluates on every data set of the config."""
        self.settle()
        with self.clock.phase("eval"):
            try:
                for evaluation in evals:
                    self.watchdog.pause()  # it may compile
                    self.progress.stage(f"evaluating {evaluation.name}", quiet=True)
                    named = evaluation.run(self.step, self.state, self.watchdog.beat)
                    self.metrics.add(self.step, named)
                    self.progress.evaluated(self.step, named)
            except InputError as error:
                raise self._ended_by(error) from None
            self.metrics.flush()
        self.progress.stage("")
        self._evaluated = self.step
        self.early_stop.see(self.step, self.metrics.last)
        self.watchdog.beat()

    def _ended_by(self, error: InputError) -> InputError:
        """Saves the state where an evaluation cannot read its data; the error says so."""
        if jax.process_count() > 1:
            return error  # the others are inside the evaluation
        self.save(final=True)
        self.checkpoints.close()
        return InputError(
            f"{error}; the state after step {self.step} is saved: replace the file by a readable "
            "one of the same name, and the same command goes on"
        )

    def save(self, *, final: bool = False, local: bool = False) -> None:
        """Starts writing a checkpoint; the metrics up to this step are on disk before.

        Args:
          final: whether the run ends with it; then return only when it is written. Otherwise
            nothing is saved while updates are being skipped, as this state may be the cause.
          local: whether to keep a local copy instead.

        Raises:
          NotSavedError: the final checkpoint could not be written.
        """
        self.settle()
        if self.bad_steps and not final:
            return
        before = self.clock.seconds.get("checkpoint", 0.0)
        with self.clock.phase("checkpoint"):
            self.metrics.flush(sync=True)
            state = self.run.engine.globalize(self.state)
            meta = self.meta | dict(
                spikes=self.spikes.memory(),
                unreadable=int(self.batches.unreadable),
                bad_steps=self.bad_steps.count,
                early_stop=self.early_stop.memory(),
            )
            if local:
                return self.local.save(self.step, state.items(), meta)
            # Metrics of an earlier step's evaluation are not this state's.
            own = self.metrics.last if self._evaluated == self.step else {}
            saved = self.checkpoints.save(self.step, state.items(), meta, own, wait=final)
        if final and not saved:
            raise NotSavedError(
                f"the state after step {self.step} could not be saved: "
                + lost_since(self.step, self.checkpoints.directory)
            )
        self.interval.saved(self.step, self.clock.seconds["checkpoint"] - before)

    def end(self) -> dict[str, Any]:
        """Writes what is left to write; returns the summary.

        Raises:
          NonFiniteError: the last step was not finite.
        """
        self._steps.close()
        self.checkpoints.close()
        self.local.delete()
        self.metrics.close(finished=not self.bad_steps)
        self.goodput.close()
        if self.bad_steps:
            raise NonFiniteError(self.bad_steps.report(self.checkpoints.sound()))
        folder, last = self.checkpoints.directory.parent, self.metrics.last
        return write_summary(self.run, self.step, folder, last, self.clock, self.goodput)

    def stop(self, asked: PreemptionWatch) -> NoReturn:
        """Saves the state and ends the run early."""
        self.save(final=True)
        self.checkpoints.close()
        self.local.delete()
        raise asked.stopped(
            f"preempted after step {self.step} of {self.run.total_steps}, state saved "
            f"({asked.reason}); the same command goes on from there"
        )

    def settle(self) -> None:
        """Waits for all steps in flight."""
        while self._in_flight:
            with self.clock.phase(self._training(self._in_flight[0][0])):
                self._land(*self._in_flight.popleft())

    def _land(self, step: int, metrics: dict[str, jax.Array]) -> None:
        skipped, loss = jax.device_get((metrics["skipped_in_a_row"], metrics["loss"]))
        self.watchdog.beat(step)
        self.goodput.record(step)
        self.spikes.see(step, float(loss))
        if self._logs(step):
            lagging = self._stragglers.answer(step)  # known only now
            self.watchdog.note = self._stragglers.note
            self.metrics.add(step, {"train/spikes": self.spikes.count} | lagging)
        if not skipped:
            self.bad_steps.clear()
            return
        self.bad_steps.add(step, metrics)
        if skipped >= self.run.config.max_skipped_steps:
            self.checkpoints.wait()
            raise NonFiniteError(self.bad_steps.report(self.checkpoints.sound()))

    def _debug(self, batch: dict[str, jax.Array]) -> None:
        """Ends the run at the first bad step and reports the operation that caused it."""
        self.settle()
        if self.bad_steps:
            # The update was skipped: these are still the parameters that the step began with.
            self.watchdog.pause()  # this takes long
            found = find_cause(self.run, self.state, batch, self.step - 1)
            self.checkpoints.wait()
            raise NonFiniteError(f"{self.bad_steps.report(self.checkpoints.sound())}\n{found}")

    def _log(self, metrics: dict[str, jax.Array]) -> None:
        speed, failed = self._speed.take(), self.checkpoints.failures
        more = {"train/unreadable": self.batches.unreadable, "checkpoint/failed": failed}
        self.metrics.add(self.step, training_values(self.run, self.step, metrics) | more | speed)
        self._stragglers.ask(self.step)
        images_left = (self.run.total_steps - self.step) * self.run.config.batch_size
        self.progress.show(self.metrics.last, images_left / speed["train/images_per_second"])

    def _logs(self, step: int) -> bool:
        return due(step, self.run.config.log.every) or step == self.run.total_steps

    def _training(self, step: int) -> str:
        """The phase of a step: "redone" if an earlier start of the run has done it already."""
        return "step" if step > self.goodput.reached else "redone"

"""Chooses the learning rate and its decay over layers by short runs on held-out images.

Successive halving (Jamieson and Talwalkar, 1502.07943): all candidates train for a ninth of the
run's length, the better third for a third of it. Each run is a process with a workdir of its own
below WORKDIR/sweep, so that a sweep that was interrupted continues.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from vit_jax import schema
from vit_jax.config import default, evaluation
from vit_jax.errors import InputError, Preempted
from vit_jax.files import expand, write_atomic
from vit_jax.finetune.begun import begun_in
from vit_jax.finetune.choices import best_metric, held_out_share
from vit_jax.finetune.config import Wanted, tell
from vit_jax.finetune.facts import Images, look_at_images, look_at_weights, weights_of
from vit_jax.models.config import BiTConfig
from vit_jax.text import printable
from vit_jax.train.health.signals import end_start_on_signals, take_over

log = logging.getLogger(__name__)

RATES = (0.1, 0.3, 1.0, 3.0)
DECAYS = (0.65, 0.85)
SHARES = (1 / 9, 1 / 3)  # of the run's length, one for each rung
_WHOLE = "whole"  # folder of the run of the whole length, beside those of the rungs
_KEPT = 3  # one candidate of this number goes on to the next rung


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Values to try: a factor of the learning rate, and its decay from layer to layer."""

    rate: float
    decay: float | None

    @property
    def name(self) -> str:
        """The name of its workdirs, such as "rate-0.3-decay-0.65"."""
        return f"rate-{self.rate:g}" + ("" if self.decay is None else f"-decay-{self.decay:g}")

    @property
    def overrides(self) -> list[str]:
        """The overrides of the config."""
        return [] if self.decay is None else [f"--config.optimizer.layer_decay={self.decay:g}"]


def whole_runs(workdir: str) -> list[Path]:
    """The workdirs of a sweep's runs of the whole length: one, or none."""
    return sorted((expand(workdir) / "sweep" / _WHOLE).glob("*"))


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The result of a sweep: what the final run is to use."""

    wanted: Wanted
    overrides: list[str]


class _Summary(TypedDict):
    """What is read of a run's summary.json."""

    metrics: dict[str, Any]


def sweep(wanted: Wanted, workdir: str, overrides: Sequence[str], *, jobs: int = 1) -> Chosen:
    """Runs the candidates that are missing, and chooses.

    Args:
      wanted: what the user asks for.
      workdir: workdir of the final run; the sweep's runs are in `sweep` below it.
      overrides: overrides of all runs, as "--config.OPTION=VALUE".
      jobs: number of runs at a time, each on its share of the GPUs or of the CPU's cores.

    Returns:
      What the final run is to use. It trains on all images but those of the data's own split for
      evaluation; where there is none, a run of the whole length on all but the held-out images
      has told the accuracy before.

    Raises:
      InputError: a run was refused, all diverged, or no images can be held out.
      Preempted: stopped by a signal, after the runs have saved their states.
    """
    images, layers = _look(wanted, workdir)
    share = held_out_share(images)
    trained, held = f"{100 * (1 - share):.6g}%", f"{images.split}[{100 * (1 - share):.6g}%:]"
    told = wanted.told | {"data.split": f"{images.split}[:{trained}]", "evals.test.split": held}
    base = dataclasses.replace(wanted, told=told)
    given = " ".join(overrides)
    full = layers and wanted.method == "full"
    decays = DECAYS if full and "optimizer.layer_decay=" not in given else (None,)
    rates = RATES if "optimizer.learning_rate=" not in given else (1.0,)
    folder = expand(workdir) / "sweep"
    runs = _Runs(folder, list(overrides), best_metric(images), jobs)
    left = [Candidate(*values) for values in itertools.product(rates, decays)]
    log.info("sweep over %d candidates on %s: %s", len(left), held, folder)
    record: list[dict[str, Any]] = []
    for part in SHARES:
        rung = dataclasses.replace(base, share=part)
        scores = runs.scores(rung, left, f"{part:.2f}")
        record.append(dict(share=part, scores={c.name: scores[c] for c in left}))
        left = sorted(left, key=lambda c: -scores[c])[: math.ceil(len(left) / _KEPT)]
        if scores[left[0]] == -math.inf:
            raise InputError(f"all runs of the sweep diverged; see {folder}")
    best = left[0]
    log.info("sweep: the best is %s (%.2f%% on %s)", best.name, 100 * scores[best], held)
    final = dataclasses.replace(wanted, rate=best.rate if best.rate != 1 else None)
    if not images.test:
        told_by = runs.scores(dataclasses.replace(base, share=None), [best], _WHOLE)[best]
        log.info("a run of the whole length on the others: %.2f%% on %s", 100 * told_by, held)
        record.append(dict(share=1.0, scores={best.name: told_by}))
        final = dataclasses.replace(final, hold_out=False)
    text = json.dumps(dict(metric=runs.metric, held_out=held, rungs=record, best=best.name))
    write_atomic(folder / "sweep.json", text.replace("-Infinity", "null") + "\n")
    return Chosen(final, best.overrides)


def _look(wanted: Wanted, workdir: str) -> tuple[Images, bool]:
    """The images, and whether the learning rate can decay over the model's layers."""
    config = default()
    config.init_from = wanted.weights
    config.data.source = wanted.source
    with config.unlocked():
        config.evals.test = evaluation()
    tell(config, wanted)
    images = look_at_images(config, wanted.told)
    if not re.fullmatch(r"[\w.-]+", images.split):
        raise InputError(
            f"--sweep holds images of data.split={images.split} out; name a whole split"
        )
    begun = begun_in(workdir)
    base = weights_of(begun, config) if begun else look_at_weights(config)
    return images, not isinstance(base.model, BiTConfig)


@dataclasses.dataclass(frozen=True)
class _Runs:
    """The runs of a sweep, in processes."""

    folder: Path
    overrides: list[str]
    metric: str
    jobs: int

    def scores(
        self, wanted: Wanted, candidates: Sequence[Candidate], rung: str
    ) -> dict[Candidate, float]:
        """The metric of each candidate, -inf if it diverged; missing runs are done."""
        commands = {c: self._command(wanted, c, rung) for c in candidates}
        missing = [c for c in candidates if self._score(c, rung) is None]
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(_stopping())
            waiting = iter(missing)
            running: dict[Candidate, int] = {}
            free = list(range(self.jobs))
            while True:
                while free and (candidate := next(waiting, None)):
                    slot = running[candidate] = free.pop()
                    work[candidate] = self._begin(commands[candidate], candidate, rung, slot)
                if not running:
                    break
                time.sleep(0.2)
                for candidate in [c for c in running if work[c].poll() is not None]:
                    free.append(running.pop(candidate))
                    self._end(candidate, rung, work.pop(candidate).returncode)
        found = {c: self._score(c, rung) for c in candidates}
        return {c: -math.inf if score is None else score for c, score in found.items()}

    def _workdir(self, candidate: Candidate, rung: str) -> Path:
        return self.folder / rung / candidate.name

    def _command(self, wanted: Wanted, candidate: Candidate, rung: str) -> list[str]:
        spec = dataclasses.replace(wanted, rate=candidate.rate).argument()
        return [
            *(sys.executable, "-m", "vit_jax", "train", f"--config=configs/images.py:{spec}"),
            f"--workdir={self._workdir(candidate, rung)}",
            *("--config.eval_every.epochs=None", "--config.checkpoint.best="),
            *("--config.checkpoint.keep=1", "--config.log.tensorboard=False"),
            *candidate.overrides,
            *self.overrides,
        ]

    def _begin(
        self, command: list[str], candidate: Candidate, rung: str, slot: int
    ) -> subprocess.Popen:
        workdir = self._workdir(candidate, rung)
        workdir.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        cores = sorted(os.sched_getaffinity(0))
        if self.jobs > 1:
            gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
            own = gpus[slot :: self.jobs] if gpus else [str(slot)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
            cores = cores[slot :: self.jobs] or cores
        with open(workdir / "log.txt", "a") as file:
            return subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def _end(self, candidate: Candidate, rung: str, status: int) -> None:
        """Says how a run went; a run that diverged gets a score of its own."""
        workdir = self._workdir(candidate, rung)
        lines = (workdir / "log.txt").read_text(errors="replace").strip().splitlines()
        last = printable(lines[-1]) if lines else f"status {status}"
        if status == 1 and "finite" in last:
            write_atomic(workdir / "diverged.txt", last + "\n")
            log.info("sweep, %s: %s diverged: %s", rung, candidate.name, last)
        elif status:
            raise InputError(f"the run in {workdir} ended with status {status}: {last}")
        else:
            log.info("sweep, %s: %s %.4f", rung, candidate.name, self._score(candidate, rung))

    def _score(self, candidate: Candidate, rung: str) -> float | None:
        workdir = self._workdir(candidate, rung)
        if (workdir / "diverged.txt").exists():
            return -math.inf
        path = workdir / "summary.json"
        if not path.exists():
            return None
        value = schema.read(path, _Summary)["metrics"].get(self.metric)
        return float(value) if isinstance(value, (int, float)) else -math.inf


@contextlib.contextmanager
def _stopping() -> Iterator[dict[Candidate, subprocess.Popen]]:
    """Collects processes; on any exception, a signal's among them, they are stopped first.

    Only the main thread can handle signals; in another one, exceptions alone stop the processes.
    """
    of_command = take_over()  # the command would end at once, and leave the processes

    def stop(number: int, frame: Any) -> None:
        text = "the sweep was stopped; the same command continues"
        raise KeyboardInterrupt(text) if interrupts(number) else Preempted(text)

    def interrupts(number: int) -> bool:
        return number == signal.SIGINT and not of_command

    work: dict[Candidate, subprocess.Popen] = {}
    in_main = threading.current_thread() is threading.main_thread()
    heard = (signal.SIGTERM, signal.SIGINT) if in_main else ()
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield work
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        for process in work.values():
            process.terminate()
        for process in work.values():
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        if of_command:
            end_start_on_signals()

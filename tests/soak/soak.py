"""Trains under random disturbance and compares with a run that was left alone.

  python -m tests.soak.soak --minutes=30 --seed=0
  python -m tests.soak.soak --count=50 --events=kill,kill-save      # kills alone

Each episode is one run of real training processes, started again until it is done. Between and
during the starts, in random order: SIGKILL at a random moment of start-up, training or saving,
SIGTERM, damage to finished checkpoints (also to all of them: the run must refuse, and the copy
is put back), another engine, mesh or number of devices. Even episodes keep to one device: at
their end parameters and metrics are those of the undisturbed run bit for bit. In odd ones the
layout changes: they are the same within the tolerance of floating-point sums in another order.
Exit status 0 if all is as it should be.
"""

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tests.soak import process
from tests.soak.process import LAYOUTS, Training
from vit_jax.checkpoint.load import read_weights

EVENTS = ("kill", "kill-save", "term", "damage", "damage-all", "layout")
STEADY = "1 device"
TOLERANCE = 2e-3  # relative, of losses and parameters, where the layout changes
KILLED, DONE, WRONG_INPUT, PREEMPTED = -9, 0, 2, 75


class Failed(Exception):
    """Something was not as it should be."""


class Soak:
    """The events so far and what is needed for the next."""

    def __init__(self, folder: Path, steps: int, seed: int, events: list[str]):
        self.folder, self.steps, self.events = folder, steps, events
        self.cache = folder / "cache"
        self.rng = random.Random(seed)
        self.counts = dict.fromkeys(events, 0)
        self.starts = 0
        self._began = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    @property
    def disturbances(self) -> int:
        return sum(self.counts.values())

    def undisturbed(self) -> Path:
        """A run that is left alone."""
        workdir = self.folder / "undisturbed"
        training = Training(workdir, STEADY, self.steps, self.cache)
        training.wait()
        self._expect(training, DONE)
        self._row("undisturbed", STEADY, "", training, "")
        return workdir

    def episode(self, number: int) -> Path:
        """A run that is disturbed until it is done."""
        workdir = self.folder / f"episode{number}"
        moves = "layout" in self.events and number % 2 == 1
        layout = self.rng.choice(list(LAYOUTS)) if moves else STEADY
        note = ""
        for start in itertools.count(1):
            name = f"{number}.{start}"
            event = self._choose([e for e in ("kill", "kill-save", "term") if e in self.events])
            before = process.checkpoints(workdir)
            training = Training(workdir, layout, self.steps, self.cache)
            self.starts += 1
            struck = self._strike(training, event)
            if struck:
                self.counts[event] += 1
            expected = {"term": PREEMPTED}.get(event, KILLED) if struck else DONE
            self._expect(training, expected)
            self._check_start(training, before)
            self._row(name, layout, event if struck else "", training, note)
            if not struck:
                return workdir
            note = self._damage(workdir, name, layout)
            if moves and self.rng.random() < 0.6:
                layout = self.rng.choice(list(LAYOUTS))
                self.counts["layout"] += 1

    def _choose(self, events: list[str]) -> str:
        return self.rng.choice(events) if events else ""

    def _strike(self, training: Training, event: str) -> bool:
        """Disturbs a process at a random moment; False if it was done before."""
        if event == "kill" and self.rng.random() < 0.3:  # in start-up, or soon after it
            moment = time.monotonic() + self.rng.uniform(0, 10)
            met = training.wait(lambda: time.monotonic() > moment)
        else:
            steps, seconds = self.rng.randrange(1, 80), self.rng.uniform(0, 0.3)
            met = training.wait(lambda: training.has_trained(steps))
            time.sleep(seconds if met else 0)
        if event == "kill-save":
            met = met and training.wait(training.saving, pause=0.0005)
            time.sleep(self.rng.uniform(0, 0.02))
        if not met or not event:
            training.wait()
            return False
        training.kill(15 if event == "term" else 9)
        # It may have finished just before.
        return training.status != DONE

    def _damage(self, workdir: Path, name: str, layout: str) -> str:
        """Damages finished checkpoints now and then; says how."""
        finished = process.checkpoints(workdir)
        if "damage-all" in self.events and finished and self.rng.random() < 0.1:
            self._damage_all(workdir, name, layout)
        if "damage" not in self.events or len(finished) < 2 or self.rng.random() < 0.5:
            return ""
        victim = finished[-1] if self.rng.random() < 0.7 else self.rng.choice(finished)
        self.counts["damage"] += 1
        return f"before it: {victim.name}: {process.damage(victim, self.rng)}"

    def _damage_all(self, workdir: Path, name: str, layout: str) -> None:
        """Without a good checkpoint a run must stop with status 2 and delete nothing."""
        folder, copy = workdir / "checkpoints", workdir / "copy"
        shutil.copytree(folder, copy)
        done = [process.damage(path, self.rng) for path in process.checkpoints(workdir)]
        damaged = _files(folder)
        training = Training(workdir, layout, self.steps, self.cache)
        training.wait()
        self.counts["damage-all"] += 1
        self._expect(training, WRONG_INPUT)
        if _files(folder) != damaged:
            raise Failed(f"{folder}: files were changed")
        self._row(f"{name}+", layout, "damage-all", training, f"{len(done)} checkpoints")
        shutil.rmtree(folder)
        copy.rename(folder)

    def _expect(self, training: Training, status: int) -> None:
        if training.status != status:
            raise Failed(f"exit status {training.status}, not {status}:\n{training.output()}")

    def _check_start(self, training: Training, before: list[Path]) -> None:
        """It went on from one of the checkpoints there were, if it came that far."""
        step = training.first_step()
        if step is not None and step not in {0, *(int(path.name) for path in before)}:
            raise Failed(f"went on from step {step}, of {[path.name for path in before]}")

    def _row(self, name: str, layout: str, event: str, training: Training, note: str) -> None:
        first, last = training.first_step(), process.last_step(training.workdir)
        steps = "" if first is None else f"{first}-{last}"
        print(
            f"{self.minutes:6.2f} | {name:<11} | {layout:<26} | {event:<10} | {steps:>9} | "
            f"{training.status:>3} | {note}",
            flush=True,
        )


def compare(workdir: Path, reference: Path, tolerance: float) -> str:
    """Compares metrics and parameters; says how far apart they are.

    Raises:
      Failed: they differ by more than the tolerance, 0 meaning not at all.
    """
    found, wanted = process.lines(workdir), process.lines(reference)
    if [line["step"] for line in found] != [line["step"] for line in wanted]:
        raise Failed(f"{workdir}: steps of metrics.jsonl are missing or there twice")
    apart = 0.0
    for line, other in zip(found, wanted, strict=True):
        for name in line.keys() | other.keys():
            if tolerance == 0 and line.get(name) != other.get(name):
                raise Failed(f"{workdir}: step {line['step']}: {name} {line} {other}")
            if name == "train/loss":
                apart = max(apart, abs(line[name] - other[name]) / other[name])
    for use_ema in (False, True):
        pairs = zip(
            jax.tree.leaves(read_weights(workdir, use_ema=use_ema).params),
            jax.tree.leaves(read_weights(reference, use_ema=use_ema).params),
            strict=True,
        )
        for leaf, other in pairs:
            if tolerance == 0 and not np.array_equal(leaf, other):
                raise Failed(f"{workdir}: parameters are not bit-identical")
            difference = np.abs(np.asarray(leaf) - np.asarray(other)).max()
            apart = max(apart, float(difference / np.abs(np.asarray(other)).max()))
    if apart > tolerance:
        raise Failed(f"{workdir}: apart by {apart:.2g}, more than {tolerance:g}")
    return "bit-identical" if tolerance == 0 else f"apart by {apart:.2g} at most"


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="begin no episode after so many")
    parser.add_argument("--count", type=int, help="begin no episode after so many disturbances")
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances")
    parser.add_argument("--steps", type=int, default=300, help="of a run")
    parser.add_argument("--events", default=",".join(EVENTS), help=f"some of {','.join(EVENTS)}")
    args = parser.parse_args()
    if args.minutes is None and args.count is None:
        parser.error("give --minutes or --count")
    events = args.events.split(",")
    if wrong := set(events) - set(EVENTS):
        parser.error(f"unknown events {', '.join(sorted(wrong))}; known: {', '.join(EVENTS)}")
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        soak = Soak(Path(folder), args.steps, args.seed, events)
        try:
            _run(soak, args)
        except Failed as failure:
            print(f"FAILED: {failure}")
            return 1
    return 0


def _run(soak: Soak, args: argparse.Namespace) -> None:
    print("minute | start       | layout                     | event      |     steps | exit |")
    reference = soak.undisturbed()
    for number in itertools.count(1):
        workdir = soak.episode(number)
        moves = "layout" in soak.events and number % 2 == 1
        verdict = compare(workdir, reference, TOLERANCE if moves else 0)
        print(f"episode {number}: {verdict}", flush=True)
        shutil.rmtree(workdir)
        enough = args.count is not None and soak.disturbances >= args.count
        if enough or (args.minutes is not None and soak.minutes >= args.minutes):
            break
    events = ", ".join(f"{count} {event}" for event, count in soak.counts.items())
    print(f"PASSED: {number} runs, {soak.starts} starts, {soak.minutes:.1f} minutes; {events}")


if __name__ == "__main__":
    sys.exit(main())

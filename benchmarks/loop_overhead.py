"""What the training loop costs beyond its compiled step.

    python benchmarks/loop_overhead.py [--rounds 5] [--steps 400]

A small ViT on handwritten digits that live on the device, where a step takes milliseconds, so
that whatever Python does between two steps shows. In one process, taking turns: the compiled
step alone, on one batch; the compiled step on batches as they come; the steps of `vit_jax
train`, with metrics.jsonl, TensorBoard events and everything that watches over a run. Processor
time, of all threads, is the fair comparison on a machine with other work.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vit_jax.cli.startup import restart_with_huge_pages
from vit_jax.config import duration
from vit_jax.config_files import load_config
from vit_jax.parallel.engines import create_engine
from vit_jax.speed.benchmark import step_ends
from vit_jax.train import loop
from vit_jax.train.batches import TrainingBatches, open_training_data
from vit_jax.train.run import prepare


def quickstart(warm_up: int, steps: int) -> Any:
    config = load_config("configs/quickstart.py:pretrain", [])
    config.data.resident = True
    config.total = duration(steps=warm_up + steps)
    config.optimizer.warmup = duration(steps=0)
    with config.unlocked():
        config.evals = type(config)()
    return config


def now() -> np.ndarray:
    """Milliseconds of wall-clock and of processor time."""
    return 1000 * np.array([time.perf_counter(), time.process_time()])


class Timed(loop.Loop):
    """The loop of a run, which notes when it ended its warm-up and when its last step."""

    warm_up = 0  # steps of each turn that are not timed
    times: list[np.ndarray] = []

    def advance(self) -> None:
        """As the loop does; waits for steps in flight at both ends of what is timed."""
        super().advance()
        if self.step in (self.warm_up, self.run.total_steps):
            self.settle()
            self.times.append(now())


def of_train(config: Any) -> np.ndarray:
    """Milliseconds of a step of `vit_jax train`: wall-clock and processor."""
    Timed.times.clear()
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(config, workdir)
    first, last = Timed.times
    return (last - first) / (config.total.steps - Timed.warm_up)


def of_bare_steps(config: Any, *, fixed: bool) -> np.ndarray:
    """Milliseconds of a compiled step, on one batch or on batches as they come."""
    source, pp, dataset = open_training_data(config)
    run = prepare(config, dataset, create_engine(config.parallel))
    batches = TrainingBatches(run, source, pp, start_step=0)
    batch = next(batches)
    state = run.engine.init(run.create)

    def steps() -> Iterator[Any]:
        nonlocal state
        for _ in range(config.total.steps):
            state, metrics = run.train_step(state, batch if fixed else next(batches))
            yield metrics

    ends = [now() for _ in step_ends(steps())][Timed.warm_up - 1 :]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def measure(rounds: int, warm_up: int, steps: int) -> dict[str, Any]:
    """Medians over rounds in which the three take turns, and what comes on top of the step."""
    config = quickstart(warm_up, steps)
    loop.Loop, Timed.warm_up = Timed, warm_up
    turns = {
        "compiled step": lambda: of_bare_steps(config, fixed=True),
        "compiled step, its batches": lambda: of_bare_steps(config, fixed=False),
        "vit_jax train": lambda: of_train(config),
    }
    found: dict[str, list[np.ndarray]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            found[name].append(turn())
    medians = {name: np.median(times, axis=0) for name, times in found.items()}
    step, fed, trained = medians.values()
    return dict(
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        rounds=rounds,
        steps=steps,
        step_ms={name: list(times) for name, times in medians.items()},
        loop_overhead=list(trained / fed - 1),
        with_data_overhead=list(trained / step - 1),
    )


def report(found: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    rows = [f"| {name} | {w:.3f} | {p:.3f} |" for name, (w, p) in found["step_ms"].items()]
    for name, key in (
        ("loop, beyond the step and its batches", "loop_overhead"),
        ("loop and batches, beyond the step", "with_data_overhead"),
    ):
        wall, processor = found[key]
        rows.append(f"| {name} | {wall:+.1%} | {processor:+.1%} |")
    title = "| | ms a step | ms of processor time |"
    return "\n".join([title, "|---|---|---|", *rows])


def main() -> None:
    restart_with_huge_pages()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--warm-up", type=int, default=50, help="steps of each turn, not timed")
    parser.add_argument("--steps", type=int, default=400, help="timed in each turn")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    if args.warm_up < 1:
        parser.error("--warm-up is at least 1: the first step compiles")
    found = measure(args.rounds, args.warm_up, args.steps)
    print(json.dumps(found) if args.json else report(found))


if __name__ == "__main__":
    main()

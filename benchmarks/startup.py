"""Seconds from starting a process to its first training steps, when it starts first and again.

    python benchmarks/startup.py [--model ViT-Ti/16] [--batch 1] [--rounds 1] [--depths 8 16 32]

`vit_jax train` starts twice on random images with the same directory of compiled programs (see
vit_jax/cli/startup.py), which is empty at first, each time in a new workdir. A start ends
with the line of its first step in metrics.jsonl, written when the second step has ended; so the
default is a model whose steps take little time, though as long to compile as those of a larger one.

Also: `import vit_jax`, and how long the training step of ViT-H/14 takes to trace and compile with
more and more blocks, which are a loop in it. Nothing is run for that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = """
from vit_jax.config import default, duration

def get_config():
    config = default()
    config.model.name = {model!r}
    config.model.image_size = 224
    config.model.num_classes = 1000
    config.data.source = "npz:{images}"
    config.data.pp = "resize(224)|value_range(-1, 1)"
    config.batch_size = {batch}
    config.total = duration(steps=100)
    config.log.every = 1
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    return config
"""


def seconds_to_first_step(folder: Path, name: str) -> float:
    """Starts a run and ends it when its first line of metrics is there."""
    workdir = folder / name
    command = ["vit_jax", "train", f"--config={folder}/config.py", f"--workdir={workdir}"]
    environment = dict(
        os.environ,
        JAX_ENABLE_COMPILATION_CACHE="true",
        JAX_COMPILATION_CACHE_DIR=str(folder / "compilations"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return seconds


def random_images(path: Path) -> None:
    """64 images of ImageNet's shape and labels."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        train_images=rng.integers(0, 256, (64, 224, 224, 3), np.uint8),
        train_labels=rng.integers(0, 1000, 64),
    )


def starts(model: str, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of first and second starts, each pair with its own directory of programs."""
    first, second = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            random_images(folder / "images.npz")
            text = CONFIG.format(model=model, batch=batch, images=folder / "images.npz")
            (folder / "config.py").write_text(text)
            first.append(seconds_to_first_step(folder, "first"))
            second.append(seconds_to_first_step(folder, "second"))
    return dict(
        model=model,
        batch=batch,
        first_seconds=statistics.median(first),
        second_seconds=statistics.median(second),
        ratio=statistics.median(second) / statistics.median(first),
    )


def import_seconds(rounds: int = 5) -> float:
    """Median of what `import vit_jax` takes in a new interpreter, beyond starting it."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return statistics.median(run("import vit_jax") - run("pass") for _ in range(rounds))


def compile_seconds(depth: int) -> dict[str, float]:
    """Processor seconds to trace and to compile the step of ViT-H/14 with so many blocks."""
    from vit_jax.plan.compile import abstract_batch
    from vit_jax.speed.benchmark import DATASET, run_config
    from vit_jax.train.run import prepare

    config = run_config("ViT-H/14", batch_size=1)
    config.model.depth = depth
    run = prepare(config, DATASET)
    start = time.process_time()
    lowered = run.train_step.lower(run.abstract, abstract_batch(run))
    traced = time.process_time()
    lowered.compile()
    return dict(depth=depth, trace=traced - start, compile=time.process_time() - traced)


def report(found: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    start = found["starts"]
    lines = [
        f"`import vit_jax`: {found['import_seconds']:.2f} s",
        "",
        f"{start['model']}, batch {start['batch']}: first steps after "
        f"{start['first_seconds']:.1f} s, started again after {start['second_seconds']:.1f} s, "
        f"a share of {start['ratio']:.2f}",
    ]
    if found["depths"]:
        lines += [
            "",
            "| blocks of ViT-H/14 | trace, s of processor time | compile |",
            "|---|---|---|",
        ]
        lines += [
            f"| {d['depth']} | {d['trace']:.1f} | {d['compile']:.1f} |" for d in found["depths"]
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-Ti/16", help="trained (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="its batch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of starts")
    parser.add_argument("--depths", type=int, nargs="*", default=[8, 16, 32], help="of ViT-H/14")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    found = dict(
        import_seconds=import_seconds(),
        starts=starts(args.model, args.batch, args.rounds),
        depths=[compile_seconds(depth) for depth in args.depths],
    )
    print(json.dumps(found) if args.json else report(found))


if __name__ == "__main__":
    main()

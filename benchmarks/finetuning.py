"""Methods and options of fine-tuning on one data set, each over several seeds.

    python benchmarks/emoji.py photos/emoji
    python benchmarks/finetuning.py WEIGHTS photos/emoji [--epochs=10] [--seeds=3] [--only=lora]

Each run is `vit_jax finetune WEIGHTS DATA` with some arguments, in a workdir of its own below
--workdir; runs that are done are not repeated. Prints a table and writes it to --output as JSON,
with the command of each row, top-1, the seconds of the run, the trained parameters and the memory
of the process. Learning rates are those that the command chooses, but for the rows that name one.
The teacher of the distilled rows is the run of `lora` with the same seed, and a soup is the average
of the runs that it names: those are done first.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.files import write_atomic

OPTIMIZER = "--config.optimizer"
TEACHER = ["--config.task=distill", "--config.distill.teacher={workdir}/lora/{seed}"]
RUNS: dict[str, list[str]] = {
    "full": [],
    "lora": ["--method=lora"],
    "bias": ["--method=bias"],
    "head": ["--method=head"],
    "probe": ["--method=probe"],
    "half-frozen": [f"{OPTIMIZER}.freeze_blocks=3"],
    "no-layer-decay": [f"{OPTIMIZER}.layer_decay=1.0"],
    "layer-decay-0.5": [f"{OPTIMIZER}.layer_decay=0.5"],
    "rate-3": [f"{OPTIMIZER}.learning_rate=0.0063"],
    "sgd": [f"{OPTIMIZER}.name=sgd", f"{OPTIMIZER}.learning_rate=0.003",
            f"{OPTIMIZER}.layer_decay=1.0", f"{OPTIMIZER}.weight_decay=0.0"],
    "muon": [f"{OPTIMIZER}.name=muon(consistent_rms=0.2)"],
    "lion": [f"{OPTIMIZER}.name=lion", f"{OPTIMIZER}.learning_rate=0.0007"],
    "schedule-free": [f"{OPTIMIZER}.name=schedule_free", f"{OPTIMIZER}.schedule=constant"],
    "8-bit-moments": [f"{OPTIMIZER}.moment_dtype=8bit", f"{OPTIMIZER}.second_moment_dtype=8bit"],
    "sam": [f"{OPTIMIZER}.sam_rho=0.05"],
    "ema": [f"{OPTIMIZER}.ema_decay=0.99", "--config.evals.test.use_ema=True"],
    "mixup": ["--config.mixup.alpha=0.2"],
    "cutmix": ["--config.mixup.cutmix_alpha=1.0"],
    "label-smoothing": ["--config.loss.label_smoothing=0.1"],
    "stochastic-depth": ["--config.model.stochastic_depth=0.1"],
    "patch-dropout": ["--config.model.patch_dropout=0.5"],
    "class-weights": ["--config.loss.class_weights=effective(beta=0.999)"],
    "balance": ["--config.data.balance=0.5"],
    "flips-averaged": ["--config.evals.test.tta=flip"],
    "crops-averaged": ["--config.evals.test.tta=ten_crop"],
    "mixup-ended": ["--config.mixup.alpha=0.2", "--config.mixup.off_after.epochs=4"],
    "resized": ["--config.progressive.sizes=16@0.4, 20@0.7, 28"],
    "adafactor": [f"{OPTIMIZER}.name=adafactor", f"{OPTIMIZER}.moment_dtype=bfloat16"],
    "prodigy": [f"{OPTIMIZER}.name=prodigy", f"{OPTIMIZER}.learning_rate=1.0"],
    "16-bit-moments": [f"{OPTIMIZER}.moment_dtype=bfloat16",
                       f"{OPTIMIZER}.second_moment_dtype=bfloat16"],
    "not-clipped": [f"{OPTIMIZER}.clip_norm=0"],
    "clipped-by-value": [f"{OPTIMIZER}.clip_norm=0", f"{OPTIMIZER}.clip_value=0.01"],
    "clipped-adaptively": [f"{OPTIMIZER}.clip_norm=0", f"{OPTIMIZER}.clip_adaptive=0.01"],
    "distilled-softly": [*TEACHER, "--config.distill.kind=soft", "--config.distill.alpha=0.9",
                         "--config.distill.temperature=2"],
    "distilled-hard": [*TEACHER, "--config.distill.kind=hard", "--config.distill.alpha=0.5"],
    "distilled-features": [*TEACHER, "--config.distill.kind=feature",
                           "--config.distill.alpha=0.5"],
}  # fmt: skip
SOUPS = {"soup": ("rate-3", "no-layer-decay", "label-smoothing", "class-weights")}


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Fine-tunes once; the summary that the command prints.

    Raises:
      InputError: the run fails.
    """
    folder = args.workdir.as_posix()
    options = [word.format(workdir=folder, seed=seed) for word in RUNS[name]]
    if any("{workdir}/lora" in word for word in RUNS[name]):
        run("lora", seed, args)
    words = ["vit_jax", "finetune", args.weights, args.data, *options]
    words += [f"--epochs={args.epochs:g}"] if args.epochs else []
    words += [f"--image-size={args.image_size}"] if args.image_size else []
    words += [f"--config.seed={seed}", f"--workdir={args.workdir / name / str(seed)}"]
    return _summary(words)


def soup(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Averages runs and evaluates the average; a summary as of a run.

    Raises:
      InputError: a run fails.
    """
    runs = [run(part, seed, args) for part in SOUPS[name]]
    paths = [(args.workdir / part / str(seed)).as_posix() for part in SOUPS[name]]
    target = args.workdir / name / f"{seed}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    made = _summary(["vit_jax", "soup", *paths, str(target)])
    config = json.loads((Path(paths[0]) / "config.json").read_text())
    data = [f"--source={config['data']['source']}", f"--split={config['evals']['test']['split']}"]
    found = _summary(["vit_jax", "evaluate", f"--checkpoint={target}", *data])
    return {
        **runs[0],
        "command": made["command"],
        "outcome": found,
        "wall_seconds": sum(one["wall_seconds"] for one in runs),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in runs),
    }


def _summary(words: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", *words, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{shlex.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout), command=shlex.join(words))


def row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The result of a method over its seeds."""
    one = soup if name in SOUPS else run
    summaries = [one(name, seed, args) for seed in range(args.seeds)]
    tops = [100 * summary["outcome"]["top1"] for summary in summaries]
    return dict(
        name=name,
        top1=statistics.mean(tops),
        standard_error=statistics.stdev(tops) / math.sqrt(len(tops)) if len(tops) > 1 else None,
        each=tops,
        seconds=statistics.median(summary["wall_seconds"] for summary in summaries),
        trained_params=summaries[0]["trained_params"],
        params=summaries[0]["params"],
        peak_memory_bytes=summaries[0]["peak_memory_bytes"],
        command=summaries[0]["command"],
        devices=summaries[0]["devices"],
        jax=summaries[0]["jax"],
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, the best first."""
    lines = ["| | top-1 | ± | seconds | trained parameters | memory, MB |", "|---" * 6 + "|"]
    for one in sorted(rows, key=lambda one: -one["top1"]):
        error = "" if one["standard_error"] is None else f"{one['standard_error']:.2f}"
        memory = one["peak_memory_bytes"]
        lines.append(
            f"| {one['name']} | {one['top1']:.2f} | {error} | {one['seconds']:.0f} | "
            f"{one['trained_params']:,} | {'' if memory is None else round(memory / 1e6)} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Does the runs; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", metavar="WEIGHTS")
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    rows_help = "rows, with commas between them"
    parser.add_argument("--only", default=",".join([*RUNS, *SOUPS]), help=rows_help)
    parser.add_argument("--workdir", type=Path, default=Path("workdirs/finetuning"))
    parser.add_argument("--output", type=Path, help="JSON file, written after each row")
    args = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    try:
        names = args.only.split(",")
        for name in names:
            if name not in [*RUNS, *SOUPS]:
                raise unknown("row", name, [*RUNS, *SOUPS])
        for name in names:
            rows.append(row(name, args))
            print(f"{name}: {rows[-1]['top1']:.2f}", file=sys.stderr)
            if args.output:
                write_atomic(args.output, json.dumps(rows, indent=1) + "\n")
    except InputError as error:
        print(f"finetuning.py: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

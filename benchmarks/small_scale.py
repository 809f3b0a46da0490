"""The paper's claims on small models and real images, each over three seeds.

    python benchmarks/small_scale.py STUDY [--workdir=workdirs/tables] [--output=docs/results]
    python benchmarks/small_scale.py --list [STUDY]

Does the runs that a study still lacks, one on each core at a time (--jobs), then writes
STUDY.json and STUDY.png and prints a table. Started again it goes on where it was stopped.
Every run is a `vit_jax train` of configs/small.py; the JSON has its command. Runs are shared
between studies, and with `vit_jax tables 8 --scale=small`.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import datetime
import json
import os
import platform
import queue
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.figures.draw import figure_class
from vit_jax.paper.recipes import SEEDS, Recipe, Run, recipes
from vit_jax.paper.results import measured

METRIC = "eval/test/top1"
BASE = "configs/small.py:{}".format
CROP = "random_crop({0}, padding=1)|flip_lr|value_range(-1, 1)".format
DIGITS = (
    "--config.data.source=digits",
    "--config.data.split=train[:80%]",
    "--config.evals.test.split=train[80%:]",
    # A digit's mirror image is none.
    "--config.data.pp=resize(16)|random_crop(16, padding=1)|value_range(-1, 1)",
)
# A sixth of the training set, in place of the test set.
DEV = ("--config.data.split=train[:50000]", "--config.evals.test.split=train[50000:]")
FAMILIES = ("ViT", "hybrid", "BiT")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
      title: of the table and the plot.
      cells: (curve, point on it) -> how it is measured.
      x: what the points are, where they are numbers; else each curve is a panel of its own.
    """

    title: str
    cells: dict[tuple[str, str], Recipe]
    x: str = ""


def seeded(
    workdir: str, family: str, *overrides: str, starts: Iterable[Run] | None = None
) -> tuple[Run, ...]:
    """The same run with each seed; each from the start of its seed, where there are starts."""
    starts = tuple(starts or [None] * len(SEEDS))
    return tuple(
        Run(f"{workdir}/seed{seed}", BASE(family), (*overrides, f"--config.seed={seed}"), start)
        for seed, start in zip(SEEDS, starts)
    )


def examples(count: int) -> tuple[str, ...]:
    """The length of a run, a tenth of it warm-up."""
    return (
        f"--config.total.examples={count}",
        f"--config.optimizer.warmup.examples={count // 10}",
    )


def base(family: str) -> tuple[Run, ...]:
    """The family's config as it is; studies share these runs, and so does table 8."""
    if family == "ViT":
        return recipes(8, "small")["1-D", "Stem"].runs
    return seeded(f"small/{family}", family)


def positions() -> Study:
    """Table 8, and its first column on digits too."""
    cells = {}
    for (kind, place), recipe in recipes(8, "small").items():
        cells["Fashion-MNIST: " + place, kind] = dataclasses.replace(recipe, percent=True)
        if place == "Stem":
            own = [word for word in recipe.runs[0].overrides if "posemb" in word]
            runs = seeded(f"small/digits/{kind}", "ViT", *own, *DIGITS)
            cells["digits: Stem", kind] = Recipe(runs, METRIC)
    return Study("Position embeddings (table 8)", cells)


def resolution() -> Study:
    """Fine-tuning at 1.5 times and twice the resolution (section 3.2)."""
    tuned = ("--config.optimizer.learning_rate=1e-3", *examples(30_000))
    # The classes stay the same: the head is taken along.
    keep, again = "--config.init_skip=()", "--config.init_skip=('posemb/.*',)"
    arms = {"stays at 16": (keep,)}
    for size in (24, 32):
        pp = f"--config.data.pp=resize({size}, antialias=True)|{CROP(size)}"
        arms[f"{size}, interpolated"] = (keep, pp)
        arms[f"{size}, positions anew"] = (again, pp)
    cells = {("", "16, pre-trained"): Recipe(base("ViT"), METRIC)}
    for name, own in arms.items():
        folder = "small/resolution/" + name.replace(", ", "_").replace(" ", "_")
        runs = seeded(folder, "ViT", *tuned, *own, starts=base("ViT"))
        cells["", name] = Recipe(runs, METRIC)
    return Study("Fine-tuning at a higher resolution (section 3.2)", cells)


def subsets() -> Study:
    """Families over growing parts of the training set, the same number of steps (figure 4)."""
    cells = {}
    for percent in (2, 10, 25, 50):
        # The files are not sorted by class.
        part = f"--config.data.split=train[:{60_000 * percent // 100}]"
        for family in FAMILIES:
            runs = seeded(f"small/subsets/{family}/{percent}", family, part)
            cells[family, str(percent)] = Recipe(runs, METRIC)
    for family in FAMILIES:
        cells[family, "100"] = Recipe(base(family), METRIC)
    return Study("Top-1 over the size of the training set (figure 4)", cells, "% of 60,000 images")


def compute() -> Study:
    """Families of equal cost over the length of training (figure 5)."""
    cells = {}
    for count in (15_000, 30_000, 60_000, 120_000):
        for family in FAMILIES:
            runs = base(family)
            if count != 60_000:
                runs = seeded(f"small/compute/{family}/{count}", family, *examples(count))
            cells[family, str(count)] = Recipe(runs, METRIC)
    return Study("Top-1 over compute (figure 5)", cells, "examples, of 11 MFLOPs each")


def pooling() -> Study:
    """Class token and GAP, each at the best learning rate on a dev split (figure 9)."""
    cells = {}
    for head in ("token", "gap"):
        own, folder = f"--config.model.head={head}", f"small/pooling/{head}"
        choices = {
            f"--config.optimizer.learning_rate={rate}": f"{folder}/dev_{rate}"
            for rate in ("1e-3", "3e-3", "1e-2")
        }
        tried = tuple(
            (rate, Run(workdir, BASE("ViT"), (own, rate, *DEV)))
            for rate, workdir in choices.items()
        )
        cells["", head] = Recipe(seeded(folder, "ViT", own), METRIC, tried, METRIC)
    return Study("Class token and global average pooling (figure 9)", cells)


def masked() -> Study:
    """Masked patch prediction on all images, then few labels (section 4.6)."""
    starts = seeded("small/masked/pretrained", "ViT", "--config.task=masked", *examples(120_000))
    cells = {}
    for labels in (300, 1200, 6000):
        few = (f"--config.data.split=train[:{labels}]", *examples(30_000))
        scratch = seeded(f"small/masked/scratch_{labels}", "ViT", *few)
        tuned = seeded(f"small/masked/tuned_{labels}", "ViT", *few, starts=starts)
        cells["from scratch", str(labels)] = Recipe(scratch, METRIC)
        cells["from masked patch prediction", str(labels)] = Recipe(tuned, METRIC)
    return Study("Masked patch prediction (section 4.6)", cells, "labelled images")


STUDIES: dict[str, Callable[[], Study]] = {
    study.__name__: study for study in (positions, resolution, subsets, compute, pooling, masked)
}


def do_missing(study: Study, folder: Path, jobs: int) -> None:
    """Runs what is missing, stage by stage, `jobs` at a time with a share of the cores each.

    Raises:
      InputError: runs that failed, after all others; a choice that diverged is no failure.
    """
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.Queue = queue.Queue()
    for i in range(jobs):
        shares.put(cores[i::jobs] or cores)

    failed: set[str] = set()

    def do(run: Run) -> None:
        share = shares.get()
        try:
            execute(run, folder, share)
        except InputError as error:
            print(error, file=sys.stderr, flush=True)
            failed.add(run.workdir)
        finally:
            shares.put(share)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        while runs := [run for run in next_runs(study, folder) if run.workdir not in failed]:
            print(f"{len(runs)} runs can start", file=sys.stderr, flush=True)
            list(pool.map(do, runs))
    if left := next_runs(study, folder):
        names = ", ".join(run.workdir for run in left)
        raise InputError(f"all is done but for {names}, which failed; see log.txt there")


def next_runs(study: Study, folder: Path) -> list[Run]:
    """Unfinished runs whose start is there, each once."""
    runs = {}
    for recipe in study.cells.values():
        for run in measured(recipe, folder).missing:
            while run.start and not (folder / run.start.workdir / "summary.json").exists():
                run = run.start
            runs[run.workdir] = run
    return list(runs.values())


def execute(run: Run, folder: Path, cores: list[int]) -> None:
    """One training run in a process of its own."""
    workdir = folder / run.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", *shlex.split(run.command(folder))]
    with open(workdir / "log.txt", "a") as log:
        status = subprocess.run(
            words, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        ).returncode
    if status:
        raise InputError(f"status {status}, see {workdir}/log.txt: {run.command(folder)}")
    print(run.workdir, file=sys.stderr, flush=True)


def document(name: str, study: Study, folder: Path) -> dict[str, Any]:
    """The results for JSON."""
    points = []
    for (curve, point), recipe in study.cells.items():
        ours = measured(recipe, folder)
        chosen = chosen_option(recipe, folder)
        runs = recipe.final(chosen)
        points.append(
            dict(
                curve=curve,
                point=point,
                mean=ours.value,
                std=ours.std,
                runs=ours.runs,
                chosen=chosen,
                values=[
                    measured(dataclasses.replace(recipe, runs=(run,), choices=()), folder).value
                    for run in runs
                ],
                commands=[run.command(folder) for run in runs],
            )
        )
    return dict(
        study=name,
        title=study.title,
        metric=f"{METRIC} in percent",
        **machine(),
        points=points,
    )


def chosen_option(recipe: Recipe, folder: Path) -> str:
    """The override that did best among the choices; "" where nothing was to be chosen."""
    scores = {
        option: measured(Recipe((run,), recipe.choice_metric), folder).value
        for option, run in recipe.choices
    }
    return max(scores, key=scores.get) if scores else ""


def machine() -> dict[str, Any]:
    """When, where and with what something was measured."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    versions = {name: version(name) for name in ("jax", "flax", "optax", "vit_jax")}
    return dict(
        date=datetime.date.today().isoformat(),
        hardware=f"{[*names, platform.machine()][0]}, {len(os.sched_getaffinity(0))} cores",
        versions=versions | dict(python=platform.python_version()),
    )


def report(found: dict[str, Any]) -> str:
    """A Markdown table: a row for each point, a column for each curve."""
    cells: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for point in found["points"]:
        text = f"{point['mean']:.2f} ± {point['std']:.2f}"
        if point["chosen"]:
            text += f" ({point['chosen'].rpartition('.')[2]})"
        cells[point["point"]][point["curve"]] = text
    curves = list(dict.fromkeys(point["curve"] for point in found["points"]))
    lines = [
        f"| | {' | '.join(curve or 'top-1' for curve in curves)} |",
        "|---" * (len(curves) + 1) + "|",
    ]
    for name, row in cells.items():
        lines.append(f"| {name} | {' | '.join(row.get(curve, '') for curve in curves)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], study: Study, file: Path) -> None:
    """Curves, or a panel each where the points have no order; bars are standard deviations."""
    curves: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for point in found["points"]:
        curves[point["curve"]].append(point)
    names = list(dict.fromkeys(point["point"] for point in found["points"]))
    panels = 1 if study.x else len(curves)
    figure = figure_class()(figsize=(max(6, 2.5 * panels), 4), layout="constrained")
    every_axes = figure.subplots(1, panels, squeeze=False)[0]
    for i, (curve, points) in enumerate(curves.items()):
        axes = every_axes[0 if study.x else i]
        axes.errorbar(
            [float(p["point"]) if study.x else names.index(p["point"]) for p in points],
            [p["mean"] for p in points],
            [p["std"] for p in points],
            marker="o",
            linestyle="-" if study.x else "",
            capsize=3,
            label=curve,
        )
        axes.set_ylabel("top-1 [%]")
        if study.x:
            axes.set(xscale="log", xlabel=study.x)
            axes.set_xticks([float(name) for name in names], names)
            axes.minorticks_off()
            axes.legend(fontsize=8)
        else:
            axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.set_title(curve.replace(": ", "\n"), fontsize=9)
    figure.suptitle(found["title"], fontsize=10)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", help=", ".join(STUDIES))
    parser.add_argument("--workdir", default="workdirs/tables", help="of the runs (%(default)s)")
    parser.add_argument("--output", default="docs/results", help="for JSON, PNG (%(default)s)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="runs at a time (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the commands of the runs")
    args = parser.parse_args()
    folder = Path(args.workdir)
    if args.study not in STUDIES and not (args.list and args.study is None):
        raise unknown("study", str(args.study), STUDIES)
    if args.list:
        for name in [args.study] if args.study else STUDIES:
            for run in next_runs(STUDIES[name](), folder):
                print(run.command(folder))
        return
    if args.jobs < 1:
        raise InputError(f"--jobs={args.jobs}: at least one run at a time")
    study = STUDIES[args.study]()
    figure_class()  # says at once where matplotlib is missing
    do_missing(study, folder, args.jobs)
    found = document(args.study, study, folder)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{args.study}.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, study, output / f"{args.study}.png")
    print(report(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"small_scale.py: {error}", file=sys.stderr)
        sys.exit(2)

"""The paper's claims on small models and real images, each over three or five seeds.

    python benchmarks/small_scale.py STUDY [--workdir=workdirs/tables] [--output=docs/results]
    python benchmarks/small_scale.py STUDY --points POINT ...
    python benchmarks/small_scale.py --list [STUDY [--points POINT ...]]

Does the runs that a study still lacks, one on each core at a time (--jobs), then writes
STUDY.json and STUDY.png and prints a table. Started again it goes on where it was stopped.
With --points it does only these rows of the table; the others stay in STUDY.json as they are.
What the studies compare stands in vit_jax/paper/studies.py; the JSON has each run's command.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import logging
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.figures.draw import figure_class
from vit_jax.paper import queue
from vit_jax.paper.results import choice, measured
from vit_jax.paper.runs import Run
from vit_jax.paper.studies import STUDIES, Study


def document(name: str, study: Study, folder: Path) -> dict[str, Any]:
    """The results of a study, as a document for JSON."""
    points = []
    metrics = dict.fromkeys(recipe.metric for recipe in study.cells.values())
    for (curve, point), recipe in study.cells.items():
        ours = measured(recipe, folder)
        chosen = choice(recipe, folder)
        runs = [run for run in recipe.final(chosen) if isinstance(run, Run)]
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
        metric=f"{', '.join(metrics)} in percent",
        **machine(),
        points=points,
    )


def joined(
    before: dict[str, Any], found: dict[str, Any], order: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """The document of a study with other points of an earlier one, which keep their machine."""
    told = {name: before[name] for name in ("date", "hardware", "versions")}
    points = {(p["curve"], p["point"]): told | p for p in before["points"]}
    points |= {(p["curve"], p["point"]): p for p in found["points"]}
    return found | dict(points=[points[key] for key in order if key in points])


def only(study: Study, points: Sequence[str]) -> Study:
    """The part of a study at some of its points, in their order.

    Raises:
      InputError: the study has no such point.
    """
    names = dict.fromkeys(point for _, point in study.cells)
    for point in points:
        if point not in names:
            raise unknown("point", point, names)
    cells = {
        key: recipe for point in points for key, recipe in study.cells.items() if key[1] == point
    }
    return dataclasses.replace(study, cells=cells)


def machine() -> dict[str, Any]:
    """The date, hardware and versions of a measurement."""
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
        text = f"{point['mean']:.2f}"
        if point["std"] is not None:
            text += f" ± {point['std']:.2f}"
        if point["chosen"]:
            option, _, value = point["chosen"].partition("=")
            text += f" ({option.rpartition('.')[2]}={value})"
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
    shares = [1] if study.x else [2 + len(points) for points in curves.values()]
    figure = figure_class()(figsize=(max(6, 0.45 * sum(shares)), 4.5), layout="constrained")
    every_axes = figure.subplots(1, len(shares), squeeze=False, width_ratios=shares)[0]
    for i, (curve, points) in enumerate(curves.items()):
        axes = every_axes[0 if study.x else i]
        axes.errorbar(
            [float(p["point"]) for p in points] if study.x else range(len(points)),
            [p["mean"] for p in points],
            [p["std"] or 0 for p in points],
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
            own = [p["point"] for p in points]
            axes.set_xticks(range(len(own)), own, rotation=45, ha="right", fontsize=8)
            axes.set_xlim(-0.5, len(own) - 0.5)
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
    parser.add_argument("--points", nargs="+", metavar="POINT", help="only these rows")
    args = parser.parse_args()
    folder = Path(args.workdir)
    if args.study not in STUDIES and not (args.list and args.study is None):
        raise unknown("study", str(args.study), STUDIES)
    if args.points and args.study is None:
        raise InputError("--points are those of a STUDY: name it")
    studies = [STUDIES[name]() for name in ([args.study] if args.study else STUDIES)]
    if args.points:
        studies = [only(studies[0], args.points)]
    if args.list:
        for study in studies:
            for run in queue.next_runs(study.cells.values(), folder):
                print(run.command(folder))
        return
    if args.jobs < 1:
        raise InputError(f"--jobs={args.jobs}: at least one run at a time")
    (study,) = studies
    figure_class()  # says at once where matplotlib is missing
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    do = queue.processes(folder, args.jobs)
    queue.run_all(list(study.cells.values()), folder, do, args.jobs)
    found = document(args.study, study, folder)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{args.study}.json"
    if args.points and file.exists():
        found = joined(json.loads(file.read_text()), found, list(STUDIES[args.study]().cells))
    file.write_text(json.dumps(found, indent=1) + "\n")
    plot(found, study, output / f"{args.study}.png")
    print(report(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"small_scale.py: {error}", file=sys.stderr)
        sys.exit(2)

"""The page: one HTML file that holds everything and asks for nothing."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax import __version__
from vit_jax.evaluate.stored import predict_command
from vit_jax.report.curves import Chart, charts, is_share
from vit_jax.report.look import Confusion, Look, heatmap
from vit_jax.report.run import (
    EMPTY,
    FINISHED,
    Run,
    best,
    finite,
    is_larger_better,
    same,
    usual_config,
)
from vit_jax.report.words import duration, number, percent, size, value_text
from vit_jax.text import printable

HERE = Path(__file__).parent
MOST_CLASSES = 24  # of a confusion matrix that is a table; larger ones are a picture
PAIRS = 10
PHASES = {
    "step": "training",
    "redone": "training again after a restart",
    "compile": "compiling",
    "start": "starting",
    "data": "waiting for data",
    "eval": "evaluating",
    "checkpoint": "saving checkpoints",
    "other": "other",
}


@dataclasses.dataclass(frozen=True)
class Fact:
    """A name and its value, in words."""

    name: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A metric of an evaluation: its last and its best value, in words."""

    name: str
    last: str
    last_step: int
    best: str
    best_step: int


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase of goodput.jsonl: seconds and share, in words; `width` in percent."""

    key: str
    name: str
    time: str
    share: str
    width: float


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a confusion matrix; `depth` from 0 to 1 is its colour."""

    count: int
    depth: float
    right: bool
    title: str


@dataclasses.dataclass(frozen=True)
class Compared:
    """A row of a table with a column for each run."""

    name: str
    values: list[str]
    marked: list[bool]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class View:
    """A run with everything that the page shows of it."""

    run: Run
    look: Look
    tiles: list[Fact]
    facts: list[Fact]
    evaluations: list[Evaluated]
    phases: list[Phase]
    charts: list[Chart]
    rows: list[tuple[str, list[Cell]]]
    picture: str
    classes: list[Fact]
    commands: list[Fact]


def page(runs: Sequence[Run], looks: Sequence[Look]) -> str:
    """The HTML of one or several runs.

    Args:
      runs: runs; several are compared.
      looks: what evaluation found out about each.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= dict(
        printable=printable,
        value=value_text,
        percent=percent,
        curve_data=lambda one: dict(label=one.label, color=one.color, points=one.points),
        run_name=lambda view: view.run.name,
    )
    several = len(runs) > 1
    return environment.get_template("page.html").render(
        version=__version__,
        views=[_view(run, look, alone=not several) for run, look in zip(runs, looks, strict=True)],
        overlaid=charts(runs) if several else [],
        results=_results(runs) if several else [],
        differences=_differences(runs) if several else [],
        style=(HERE / "page.css").read_text(),
        script=(HERE / "page.js").read_text(),
    )


def _view(run: Run, look: Look, *, alone: bool) -> View:
    small = look.confusion is not None and len(look.confusion.names) <= MOST_CLASSES
    matrix = look.confusion.matrix if look.confusion else None
    return View(
        run=run,
        look=look,
        tiles=_tiles(run),
        facts=_facts(run),
        evaluations=_evaluations(run),
        phases=_phases(run),
        charts=charts([run]) if alone else [],
        rows=_rows(look.confusion) if look.confusion and small else [],
        picture=heatmap(matrix) if matrix is not None and not small else "",
        classes=_classes(look.confusion) if look.confusion else [],
        commands=_commands(run),
    )


def written(name: str, value: float | None) -> str:
    """The value of a metric, in words."""
    return percent(value) if is_share(name) else number(value)


def _evaluations(run: Run) -> list[Evaluated]:
    found = []
    for name in run.names():
        curve = run.curve(name)
        if not name.startswith("eval/") or name.endswith("/examples") or not curve:
            continue
        step, value = curve[-1]
        best_step, best_value = best(curve, is_larger_better(name))
        found.append(
            Evaluated(
                name.removeprefix("eval/"),
                *(written(name, value), step, written(name, best_value), best_step),
            )
        )
    return found


def _tiles(run: Run) -> list[Fact]:
    """The most important numbers."""
    whole = f"of {run.total:,}" if run.total else ""
    tiles = [Fact("steps", f"{run.step:,}", whole)]
    firsts = [name for name in run.names() if name.startswith("eval/") and name.endswith("/top1")]
    for name in firsts[:2]:
        step, value = best(run.curve(name), larger=True)
        tiles.append(Fact(f"best {name.removeprefix('eval/')}", percent(value), f"step {step:,}"))
    if loss := run.curve("train/loss"):
        tiles.append(Fact("last training loss", number(loss[-1][1]), f"step {loss[-1][0]:,}"))
    if speed := median(run, "train/images_per_second"):
        tiles.append(Fact("images per second", number(speed), "median"))
    if wall := _wall(run):
        starts = len(run.starts)
        tiles.append(Fact("time", duration(wall), f"{starts} starts" if starts > 1 else ""))
    if (share := goodput_share(run)) is not None:
        tiles.append(Fact("goodput", percent(share), "of the time spent on new training steps"))
    return tiles


def median(run: Run, name: str) -> float | None:
    """The median of a metric; None without values."""
    values = [value for _, value in run.curve(name)]
    return float(np.median(values)) if values else None


def _wall(run: Run) -> float:
    return sum(line["wall"] for line in run.starts)


def goodput_share(run: Run) -> float | None:
    """The share of the wall-clock time that trained new steps."""
    wall = _wall(run)
    trained = sum(line["seconds"].get("step", 0.0) for line in run.starts)
    return trained / wall if wall > 0 else None


def _phases(run: Run) -> list[Phase]:
    wall = _wall(run)
    seconds: dict[str, float] = {}
    for line in run.starts:
        for phase, value in line["seconds"].items():
            seconds[phase] = seconds.get(phase, 0.0) + value
    order = [phase for phase in (*PHASES, *seconds) if seconds.get(phase, 0.0) > 0]
    return [
        Phase(
            phase if phase in PHASES else "other",
            PHASES.get(phase, phase),
            duration(seconds[phase]),
            percent(round(seconds[phase] / wall, 4)),
            100 * seconds[phase] / wall,
        )
        for phase in dict.fromkeys(order)
        if wall > 0
    ]


def _facts(run: Run) -> list[Fact]:
    """Hardware and versions."""
    told = run.summary
    facts = [
        Fact("model", str(told.get("model") or run.meta.get("model", {}).get("name", "–"))),
        Fact("parameters", _count(told.get("params"))),
    ]
    if told.get("trained_params") != told.get("params"):
        facts.append(Fact("of them trained", _count(told.get("trained_params"))))
    data = run.meta.get("data", {})
    images = data.get("fingerprint", {}).get("size")
    where = data.get("name") or run.config.get("data.source") or "–"
    count = f"{images:,} images" if isinstance(images, int) else ""
    facts += [
        Fact("training data", str(where), ", ".join(filter(None, [data.get("split", ""), count]))),
        Fact("classes", f"{len(run.labels):,}" if run.labels else "–"),
        Fact("preprocessing", run.meta.get("pp", "–")),
        Fact("devices", told.get("devices", "–")),
        Fact("peak memory", size(finite(told.get("peak_memory_bytes")))),
    ]
    versions = told.get("versions") or ({"jax": told["jax"]} if "jax" in told else {})
    return facts + [Fact(name, version) for name, version in versions.items()]


def _count(value: int | None) -> str:
    return f"{value:,}" if value else "–"


def _commands(run: Run) -> list[Fact]:
    """Commands that go on with the run."""
    folder = run.workdir
    commands = []
    if run.config:
        resume = ["vit_jax", "train", f"--config={folder}/config.json", f"--workdir={folder}"]
        units = [
            (name, value)
            for name in ("total.epochs", "total.steps", "total.examples")
            if isinstance(value := run.config.get(name), (int, float))
        ]
        if run.status == FINISHED and units:
            name, value = units[0]
            resume.append(f"--config.{name}={2 * value:g}" if value < 1e5 else
                          f"--config.{name}={int(2 * value)}")  # fmt: skip
            commands.append(Fact("go on, twice as long", shlex.join(resume)))
        elif run.status != FINISHED:
            commands.append(Fact("begin" if run.status == EMPTY else "resume", shlex.join(resume)))
    if run.checkpoint is not None:
        evaluate = shlex.join(["vit_jax", "evaluate", f"--checkpoint={folder}"])
        commands.append(Fact("evaluate", evaluate))
        predict = predict_command(folder, run=run.meta.get("config", {}))
        commands.append(Fact("predict", predict))
    return [*commands, Fact("this page again", shlex.join(["vit_jax", "report", folder]))]


def _rows(confusion: Confusion) -> list[tuple[str, list[Cell]]]:
    totals = np.maximum(confusion.matrix.sum(axis=1), 1)
    names = confusion.names
    return [
        (
            names[row],
            [
                Cell(
                    int(count),
                    float(np.sqrt(count / totals[row])),
                    row == column,
                    f"{names[row]} taken for {names[column]}: {count}",
                )
                for column, count in enumerate(counts)
            ],
        )
        for row, counts in enumerate(confusion.matrix)
    ]


def _classes(confusion: Confusion) -> list[Fact]:
    """The accuracy of each class, the lowest first."""
    known = [(value, name) for name, value in confusion.classes.items() if value is not None]
    counts = dict(zip(confusion.names, confusion.matrix.sum(axis=1)))
    return [Fact(name, percent(value), f"{counts[name]:,}") for value, name in sorted(known)]


def _results(runs: Sequence[Run]) -> list[Compared]:
    """The results of several runs; the best of each row is marked."""
    rows = [
        Compared("status", [run.status for run in runs], [False] * len(runs)),
        _numbers("steps", [float(run.step) for run in runs], None),
    ]
    names = dict.fromkeys(name for run in runs for name in run.names())
    for name in names:
        if not name.startswith("eval/") or name.endswith("/examples"):
            continue
        larger = is_larger_better(name)
        curves = [run.curve(name) if name in run.names() else [] for run in runs]
        short = name.removeprefix("eval/")
        bests = [best(curve, larger)[1] if curve else None for curve in curves]
        lasts = [curve[-1][1] if curve else None for curve in curves]
        if bests != lasts:
            rows.append(_numbers(f"{short}, best", bests, larger, name))
        rows.append(_numbers(f"{short}, last", lasts, larger, name))
    last = [curve[-1][1] if (curve := run.curve("train/loss")) else None for run in runs]
    speeds = [median(run, "train/images_per_second") for run in runs]
    walls = [_wall(run) or None for run in runs]
    shares = [goodput_share(run) for run in runs]
    return [
        *rows,
        _numbers("training loss, last", last, False),
        _numbers("images per second, median", speeds, True),
        Compared("time", [duration(wall) for wall in walls], _marks(walls, None)),
        Compared(
            "time spent on new steps (goodput)",
            [percent(share) for share in shares],
            _marks(shares, True),
        ),
        Compared(
            "parameters", [_count(run.summary.get("params")) for run in runs], [False] * len(runs)
        ),
    ]


def _numbers(
    title: str, values: Sequence[float | None], larger: bool | None, metric: str = ""
) -> Compared:
    return Compared(title, [written(metric, value) for value in values], _marks(values, larger))


def _marks(values: Sequence[float | None], larger: bool | None) -> list[bool]:
    """Which of the values is best; none where they are equal, or there is no better."""
    known = {value for value in values if value is not None}
    if larger is None or len(known) < 2:
        return [False] * len(values)
    top = max(known) if larger else min(known)
    return [value == top for value in values]


def _differences(runs: Sequence[Run]) -> list[Compared]:
    """The options in which runs differ; values that are not the default are marked."""
    usual: dict[str, Any] = usual_config()
    names = sorted({name for run in runs for name in run.config})
    rows = []
    for name in names:
        values = [run.config.get(name, usual.get(name)) for run in runs]
        if all(same(value, values[0]) for value in values):
            continue
        marked = [not same(value, usual.get(name)) for value in values]
        default = value_text(usual[name]) if name in usual else "–"
        rows.append(Compared(name, [value_text(value) for value in values], marked, default))
    return rows

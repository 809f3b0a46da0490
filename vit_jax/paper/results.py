"""This package's values in the tables: computed, metrics of finished runs, means over cells."""

import dataclasses
import json
import math
import shlex
import statistics
from pathlib import Path
from typing import Any

from vit_jax import schema
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.paper.computed import computed
from vit_jax.paper.recipes import recipes
from vit_jax.paper.runs import Evaluation, Recipe, Run
from vit_jax.paper.small_scale import STAND_INS
from vit_jax.paper.tables import Key, Table, table
from vit_jax.train.workdir import StoredConfig, Summary, open_workdir

# Rows that are means of the column's other cells, by table.
_MEANS = {7: "Average", 9: "Mean"}
_VTAB = "VTAB (19 tasks)"  # row of table 2: the mean of table 9


@dataclasses.dataclass(frozen=True)
class Ours:
    """This package's value of one cell."""

    value: float | str | None = None
    std: float | None = None  # over runs that differ in their seed
    runs: int = 0  # number of runs behind the value; 0: computed, or empty
    missing: tuple[Run | Evaluation, ...] = ()  # to be done next


def our_cells(number: int, folder: Path, scale: str = "paper") -> dict[Key, Ours]:
    """This package's values of a table's cells, including empty ones.

    Args:
      number: number of the table.
      folder: folder of all runs, as `vit_jax tables --run` lays them out.
      scale: "paper" or "small"; see `recipes`.

    Raises:
      InputError: a workdir in the folder belongs to another run than expected.
    """
    cells = {key: Ours(value) for key, value in computed(number).items() if scale == "paper"}
    for key, recipe in recipes(number, scale).items():
        cells[key] = measured(recipe, folder)
    if number == 2:
        vtab = our_cells(9, folder, scale)
        cells |= {(_VTAB, column): vtab["Mean", column] for column in table(9).columns}
    if number in _MEANS:
        cells |= _means(table(number), cells, scale)
    return cells


def recipes_behind(number: int, key: Key, scale: str = "paper") -> list[Recipe]:
    """The recipes whose runs fill a cell: its own, or for a mean those of the averaged cells."""
    row, column = key
    if (number, row) == (2, _VTAB):
        number, row = 9, _MEANS[9]
    known = recipes(number, scale)
    if _MEANS.get(number) == row:
        return [recipe for (_, other), recipe in known.items() if other == column]
    return [known[key]] if key in known else []


def measured(recipe: Recipe, folder: Path) -> Ours:
    """The value of a recipe's finished runs, and the runs to do next."""
    missing = tuple(
        run for _, run in recipe.choices if _choice_score(run, folder, recipe.choice_metric) is None
    )
    if missing:
        return Ours(missing=missing)
    runs = recipe.final(choice(recipe, folder))
    found = [_metric(run, folder, recipe.metric) for run in runs]
    still = tuple(run for run, value in zip(runs, found) if value is None)
    values = [value * (100 if recipe.percent else 1) for value in found if value is not None]
    if not values:
        return Ours(missing=still)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Ours(statistics.mean(values), std, len(values), still)


def choice(recipe: Recipe, folder: Path) -> str:
    """The best override among a recipe's choices; "" if it has none.

    An override whose run is not finished ranks last.
    """
    scores = {
        override: _choice_score(run, folder, recipe.choice_metric)
        for override, run in recipe.choices
    }
    known = {option: -math.inf if score is None else score for option, score in scores.items()}
    return max(known, key=lambda option: known[option]) if known else ""


def _choice_score(run: Run, folder: Path, name: str) -> float | None:
    """The metric of a run to choose by; a run that diverged ranks last."""
    if (folder / run.workdir / "non_finite.json").exists() and summary(run, folder) is None:
        return -math.inf
    return _metric(run, folder, name)


def summary(run: Run | Evaluation, folder: Path) -> dict[str, Any] | None:
    """The metrics of a finished run; None: not finished.

    Raises:
      InputError: its workdir belongs to a run of another config.
    """
    workdir = folder / run.workdir
    if isinstance(run, Run) and (workdir / "config.json").exists():
        _check(run, folder)
    path = workdir / "summary.json"
    if not path.exists():
        return None
    if isinstance(run, Evaluation):
        return schema.read(path, dict[str, Any])
    return schema.read(path, Summary)["metrics"]


def _check(run: Run, folder: Path) -> None:
    """Checks that the stored config is the recipe's, including its length and evaluations."""
    workdir = folder / run.workdir
    config = load_run_config(run, folder)
    stored = schema.read(workdir / "config.json", StoredConfig)
    # The folder of all runs may have been moved, or be given by another path.
    if run.start and Path(stored.get("init_from") or "").match(run.start.workdir):
        config.init_from = stored["init_from"]
    open_workdir(str(workdir), config)
    wanted = json.loads(config.to_json_best_effort())
    for option in ("total", "evals"):
        if _filled(stored.get(option, wanted[option])) != _filled(wanted[option]):
            raise InputError(
                f"{workdir} belongs to a run with another config.{option}: {stored[option]}, not "
                f"{wanted[option]}; give another --workdir"
            )


def _filled(section: dict[str, Any]) -> dict[str, Any]:
    """Adds the type of evaluations, which earlier versions did not write."""
    return {
        name: {"type": "classification"} | value if isinstance(value, dict) else value
        for name, value in section.items()
    }


def load_run_config(run: Run, folder: Path) -> Any:
    """The config of a run."""
    first, *overrides = run.arguments(folder)
    return load_config(first.removeprefix("--config="), overrides)


def _metric(run: Run | Evaluation, folder: Path, name: str) -> float | None:
    found = summary(run, folder)
    if found is None:
        return None
    if name not in found:
        raise InputError(f"{folder / run.workdir}/summary.json has no {name}; delete that run")
    if found[name] is None:
        raise InputError(f"{folder / run.workdir}/summary.json: {name} is not finite")
    return found[name]


def _means(paper: Table, cells: dict[Key, Ours], scale: str) -> dict[Key, Ours]:
    """The row of means; it is empty in columns with an empty cell.

    At small scale the mean is over the rows that have a small version.
    """
    mean_row = _MEANS[paper.number]
    means: dict[Key, Ours] = {}
    for column in paper.columns:
        rows = [row for row in paper.rows if row != mean_row]
        if scale == "small":
            rows = [row for row in rows if (row, column) in cells]
            if not rows:
                continue
        parts = [cells.get((row, column), Ours()) for row in rows]
        missing = tuple(run for part in parts for run in part.missing)
        values = [part.value for part in parts if isinstance(part.value, float | int)]
        if len(values) == len(parts):
            value = statistics.mean(values)
            means[mean_row, column] = Ours(value, None, sum(part.runs for part in parts), missing)
        else:
            means[mean_row, column] = Ours(missing=missing)
    return means


def document(number: int, folder: Path, scale: str = "paper") -> dict[str, Any]:
    """A table for JSON: `table`, `title`, `scale`, `stand_ins` and `cells`.

    At small scale the table has only the cells with a small version; `stand_ins` says what the
    names stand for.

    Each cell has `row`, `column`, `paper` and `ours` with their standard deviations (null:
    empty), and, where runs are missing, the `command` that does them (`cost.add` says what they
    cost).
    """
    paper, ours = table(number), our_cells(number, folder, scale)
    keys = [(row, column) for row in paper.rows for column in paper.columns]
    cells = []
    for key in keys:
        row, column = key
        printed, mine = paper.cells.get(key), ours.get(key, Ours())
        if (printed is None and mine.value is None) or (scale == "small" and key not in ours):
            continue
        cells.append(
            dict(
                row=row,
                column=column,
                paper=printed and printed.value,
                paper_std=printed and printed.std,
                ours=mine.value,
                ours_std=mine.std,
                runs=mine.runs,
                command=_command(number, row, column, folder, scale) if mine.missing else None,
            )
        )
    stand_ins = list(STAND_INS[number]) if scale == "small" else []
    return dict(table=number, title=paper.title, scale=scale, stand_ins=stand_ins, cells=cells)


def _command(number: int, row: str, column: str, folder: Path, scale: str) -> str:
    words = ["vit_jax", "tables", str(number), "--run", f"--row={row}", f"--column={column}"]
    words += [f"--workdir={folder}"] + ["--scale=small"] * (scale == "small")
    return shlex.join(words)

"""Does the missing runs of a table: here one after another, or as job arrays of Slurm."""

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import jax

from vit_jax.errors import InputError, NonFiniteError, unknown
from vit_jax.evaluate.evaluation import Watch
from vit_jax.evaluate.stored import evaluate_protocol
from vit_jax.files import write_atomic
from vit_jax.paper import queue
from vit_jax.paper.results import load_run_config, recipes_behind
from vit_jax.paper.runs import Evaluation, Recipe, Run
from vit_jax.paper.tables import Key, table
from vit_jax.train.loop import train


def select(number: int, row: str | None, column: str | None) -> list[Key]:
    """The cells of a table in its order, or only those of one row or column.

    Raises:
      InputError: the table has no such row or column.
    """
    paper = table(number)
    for kind, name, known in (("row", row, paper.rows), ("column", column, paper.columns)):
        if name is not None and name not in known:
            raise unknown(f"{kind} of table {number}", name, known)
    return [
        (r, c)
        for r in paper.rows
        for c in paper.columns
        if row in (None, r) and column in (None, c)
    ]


def run_missing(
    number: int, keys: Iterable[Key], folder: Path, scale: str, watch: Watch | None = None
) -> int:
    """Does all missing runs in this process, one after another; returns their number.

    Args:
      number, keys: table and its cells.
      folder: folder of all runs.
      scale: scale of the runs.
      watch: shows how far evaluations are.

    Raises:
      InputError: no run fills these cells; or as in `queue.run_all`.
      NonFiniteError: as in `queue.run_all`.
    """
    recipes = _recipes(number, keys, scale)
    if not recipes:
        raise InputError(f"table {number}: no run fills these cells; `vit_jax tables {number}`")
    try:
        return queue.run_all(recipes, folder, lambda run: do_here(run, folder, watch))
    except (InputError, NonFiniteError) as error:
        raise type(error)(f"table {number}: {error}") from error


def _recipes(number: int, keys: Iterable[Key], scale: str) -> list[Recipe]:
    return [recipe for key in keys for recipe in recipes_behind(number, key, scale)]


def do_here(run: queue.Work, folder: Path, watch: Watch | None = None) -> None:
    """Does one run in this process."""
    workdir = folder / run.workdir
    if isinstance(run, Evaluation):
        options = run.options(folder) | (dict(watch=watch) if watch else {})
        result = evaluate_protocol(str(folder / run.start.workdir), **options)
        workdir.mkdir(exist_ok=True)
        write_atomic(workdir / "summary.json", json.dumps(result))
        return
    train(load_run_config(run, folder), str(workdir))
    jax.clear_caches()  # the next run has another model


def slurm_script(number: int, keys: Iterable[Key], folder: Path, scale: str) -> str:
    """A Slurm script with a job array of the runs that can start now.

    Runs that depend on these are in the script that the same command prints afterwards.
    """
    runs = queue.next_runs(_recipes(number, keys, scale), folder)
    if not runs:
        raise InputError(f"table {number}: no run can start; `vit_jax tables {number}` shows why")
    commands = "\n".join(f"  {shlex.quote(_task(run, folder))}" for run in runs)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name=table{number}
#SBATCH --array=0-{len(runs) - 1}
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -uo pipefail
commands=(
{commands}
)
srun --ntasks=1 bash -c "${{commands[$SLURM_ARRAY_TASK_ID]}}"
status=$?
if ((status == 75)); then  # stopped with the state saved
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
"""


def _task(run: queue.Work, folder: Path) -> str:
    """The shell command of a run; `exec` replaces the shell, so that signals reach the run."""
    return ("exec " if isinstance(run, Run) else "") + run.command(folder)

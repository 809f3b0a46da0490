"""Does the runs that a table still lacks: here one after another, or as arrays for Slurm."""

import json
import logging
import shlex
from collections.abc import Iterable
from pathlib import Path

import jax

from vit_jax.errors import InputError, NonFiniteError, unknown
from vit_jax.evaluate.stored import evaluate_protocol
from vit_jax.paper.recipes import Evaluation, Run
from vit_jax.paper.results import load_run_config, measured, recipes_behind, summary
from vit_jax.paper.tables import Key, table
from vit_jax.train.loop import train

log = logging.getLogger(__name__)


def select(number: int, row: str | None, column: str | None) -> list[Key]:
    """The cells of a table in its order, of one row or column if asked for.

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


def next_runs(number: int, keys: Iterable[Key], folder: Path, scale: str) -> list[Run | Evaluation]:
    """Runs that can start now, in order: earlier stages first, each once.

    A choice of learning rates hides the runs behind it until all of them are done.
    """
    runs = {}
    for key in keys:
        for recipe in recipes_behind(number, key, scale):
            for run in measured(recipe, folder).missing:
                run = _first_unfinished(run, folder)
                runs[run.workdir] = run
    return list(runs.values())


def _first_unfinished(run: Run | Evaluation, folder: Path) -> Run | Evaluation:
    if run.start and summary(run.start, folder) is None:
        return _first_unfinished(run.start, folder)
    return run


def run_missing(number: int, keys: Iterable[Key], folder: Path, scale: str) -> int:
    """Does all missing runs in this process, one after another; returns how many.

    Started again it goes on where it was: finished runs are not repeated, and one that was
    stopped resumes from its checkpoint.

    Raises:
      InputError: nothing here to run, or what a run raises (data that are not prepared).
      NonFiniteError: runs that diverged, after the others; one among a choice only loses it.
    """
    keys, done, diverged = list(keys), 0, set()
    if not any(recipes_behind(number, key, scale) for key in keys):
        raise InputError(f"table {number}: no run fills these cells; `vit_jax tables {number}`")
    while runs := next_runs(number, keys, folder, scale):
        runs = [run for run in runs if run.workdir not in diverged]
        if not runs:
            names = ", ".join(sorted(diverged))
            raise NonFiniteError(f"table {number}: diverged, while all others are done: {names}")
        run = runs[0]
        log.info("table %d, %d runs ready: %s", number, len(runs), run.command(folder))
        try:
            _do(run, folder)
            done += 1
        except NonFiniteError as error:
            log.error("%s", error)
            diverged.add(run.workdir)
    return done


def _do(run: Run | Evaluation, folder: Path) -> None:
    workdir = folder / run.workdir
    if isinstance(run, Evaluation):
        result = evaluate_protocol(str(folder / run.start.workdir), **run.options(folder))
        workdir.mkdir(exist_ok=True)
        (workdir / "new").write_text(json.dumps(result))
        (workdir / "new").replace(workdir / "summary.json")
        return
    train(load_run_config(run, folder), str(workdir))
    jax.clear_caches()  # the next run has another model


def slurm_script(number: int, keys: Iterable[Key], folder: Path, scale: str) -> str:
    """A batch script whose array does the runs that can start now.

    Runs that wait for them come with the script that the same command prints afterwards.
    """
    runs = next_runs(number, keys, folder, scale)
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


def _task(run: Run | Evaluation, folder: Path) -> str:
    """The command for a shell that a run replaces, so that signals reach it."""
    return ("exec " if isinstance(run, Run) else "") + run.command(folder)

"""The queue of missing runs of recipes: finds those that can start, and does them."""

import itertools
import logging
import os
import queue
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError, NonFiniteError
from vit_jax.paper.results import measured, summary
from vit_jax.paper.runs import Evaluation, Recipe, Run
from vit_jax.text import some

log = logging.getLogger(__name__)

Work = Run | Evaluation


def next_runs(recipes: Iterable[Recipe], folder: Path) -> list[Work]:
    """Runs that can start now, in order: earlier stages first, each once.

    Runs that depend on a choice of options come only after all runs of the choice are done.

    Args:
      recipes: recipes to complete.
      folder: folder of all runs.
    """
    runs = {}
    for recipe in recipes:
        for run in measured(recipe, folder).missing:
            run = _first_unfinished(run, folder)
            runs[run.workdir] = run
    return list(runs.values())


def _first_unfinished(run: Work, folder: Path) -> Work:
    if run.start and summary(run.start, folder) is None:
        return _first_unfinished(run.start, folder)
    return run


def run_all(
    recipes: Sequence[Recipe], folder: Path, do: Callable[[Work], None], jobs: int = 0
) -> int:
    """Does the missing runs; returns their number.

    A further call continues: finished runs are not repeated, and a stopped one resumes from its
    checkpoint. When a run fails, the others go on.

    Args:
      recipes: recipes to complete.
      folder: folder of all runs.
      do: function that does one run and leaves its summary.json.
      jobs: number of runs at a time, each in a thread; 0: one after another in the calling
        thread, which alone receives the signals that stop a run.

    Raises:
      NonFiniteError: only runs that diverged are left. A diverged run of a choice of options
        is no failure: another option is taken.
      InputError: only runs that failed are left, not all because they diverged.
    """
    failed: dict[str, Exception] = {}
    done, running = 0, dict[Future[None], Work]()
    with ThreadPoolExecutor(jobs) if jobs else _CallingThread() as threads:
        while True:
            begun = {*failed, *(run.workdir for run in running.values())}
            ready = [run for run in next_runs(recipes, folder) if run.workdir not in begun]
            for run in itertools.islice(ready, max(jobs, 1) - len(running)):
                log.info("%d runs ready: %s", len(ready), run.command(folder))
                running[threads.submit(do, run)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    future.result()
                    if summary(run, folder) is None:
                        raise InputError("it ended without a summary.json")
                    done += 1
                except (InputError, NonFiniteError) as error:
                    log.error("%s: %s", run.workdir, error)
                    failed[run.workdir] = error
    left = [run.workdir for run in next_runs(recipes, folder)]
    if left:
        errors = [failed[workdir] for workdir in left]
        diverged = all(isinstance(error, NonFiniteError) for error in errors)
        raise (NonFiniteError if diverged else InputError)(
            f"all is done but for {some(left)}, which "
            f"{'diverged' if diverged else 'failed'}: {errors[0]}"
        )
    return done


class _CallingThread(Executor):
    """An executor that works at once, in the thread that asks for it."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(folder: Path, jobs: int) -> Callable[[Work], None]:
    """Returns a function that does a run in a new process; `jobs` of them share the cores.

    The output of a run goes to log.txt in its workdir.
    """
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.Queue[list[int]] = queue.Queue()
    for i in range(jobs):
        shares.put(cores[i::jobs] or cores)

    def do(run: Work) -> None:
        share = shares.get()
        try:
            _execute(run, folder, share)
        finally:
            shares.put(share)

    return do


def _execute(run: Work, folder: Path, cores: list[int]) -> None:
    workdir = folder / run.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", *shlex.split(run.command(folder))]
    with open(workdir / "log.txt", "a") as file:
        status = subprocess.run(
            words, stdout=file, stderr=file, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        ).returncode
    if status:
        raise InputError(f"status {status}, see {workdir}/log.txt")

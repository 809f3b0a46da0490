"""The queue of runs, with runs that only write their results, and as processes."""

import json
import os
import threading

import pytest

from vit_jax.errors import InputError, NonFiniteError, Preempted
from vit_jax.files import write_atomic
from vit_jax.paper import queue
from vit_jax.paper.runs import Recipe, Run

START = Run("start", "configs/small.py:ViT")
CHOICES = tuple(
    (f"--config.seed={i}", Run(f"choice{i}", "configs/small.py:ViT", (), START)) for i in (1, 2)
)
RUNS = tuple(Run(f"run{i}", "configs/small.py:ViT", (f"--config.batch_size={i}",)) for i in (1, 2))
# One with a start and choices, one without.
RECIPES = [
    Recipe(RUNS, "top1", CHOICES, choice_metric="top1"),
    Recipe((Run("alone", "configs/small.py:ViT"),), "top1"),
]


class Runs:
    """Does runs by writing a metric; some fail."""

    def __init__(self, folder, **failing):
        self.folder, self.failing, self.done = folder, failing, []

    def __call__(self, run):
        self.done.append((run.workdir, run.overrides))
        workdir = self.folder / run.workdir
        workdir.mkdir()
        if run.workdir in self.failing:
            error = self.failing[run.workdir]
            if isinstance(error, NonFiniteError):
                (workdir / "non_finite.json").write_text("{}")
            raise error
        summary = {"metrics": {"top1": 0.9 if run.workdir == "choice1" else 0.8}}
        write_atomic(workdir / "summary.json", json.dumps(summary))

    @property
    def order(self):
        return [workdir for workdir, _ in self.done]


@pytest.mark.parametrize("jobs", [0, 1, 2])
def test_each_run_is_done_once_behind_its_start_and_its_choice(tmp_path, jobs):
    runs = Runs(tmp_path)
    assert queue.run_all(RECIPES, tmp_path, runs, jobs) == 6
    order = runs.order
    assert sorted(order) == ["alone", "choice1", "choice2", "run1", "run2", "start"]
    assert order.index("start") < min(order.index("choice1"), order.index("choice2"))
    assert max(order.index("choice1"), order.index("choice2")) < order.index("run1")
    # The choice with the higher top-1 is what the runs get.
    assert dict(runs.done)["run1"] == ("--config.batch_size=1", "--config.seed=1")
    assert queue.run_all(RECIPES, tmp_path, runs, jobs) == 0


def test_one_after_another_stays_in_the_calling_thread(tmp_path):
    threads = set()
    runs = Runs(tmp_path)

    def do(run):
        threads.add(threading.current_thread())
        runs(run)

    queue.run_all(RECIPES, tmp_path, do)
    assert threads == {threading.main_thread()}


@pytest.mark.parametrize("jobs", [0, 2])
def test_the_others_go_on_behind_runs_that_fail(tmp_path, jobs):
    runs = Runs(tmp_path, run1=NonFiniteError("step 3"), alone=InputError("no such data"))
    with pytest.raises(InputError, match="all is done but for run1, alone, which failed: step 3"):
        queue.run_all(RECIPES, tmp_path, runs, jobs)
    assert len(runs.order) == len(set(runs.order)) == 6


def test_runs_that_only_diverged_are_no_wrong_input(tmp_path):
    runs = Runs(tmp_path, run2=NonFiniteError("step 3"))
    with pytest.raises(NonFiniteError, match="all is done but for run2, which diverged: step 3"):
        queue.run_all(RECIPES, tmp_path, runs)


def test_a_choice_that_diverged_is_not_taken(tmp_path):
    runs = Runs(tmp_path, choice1=NonFiniteError("step 3"))
    assert queue.run_all(RECIPES, tmp_path, runs) == 5
    assert dict(runs.done)["run1"][-1] == "--config.seed=2"


def test_a_start_that_fails_leaves_what_is_behind_it(tmp_path):
    runs = Runs(tmp_path, start=InputError("no such data"))
    with pytest.raises(InputError, match="but for start, which failed: no such data"):
        queue.run_all(RECIPES, tmp_path, runs)
    assert sorted(runs.order) == ["alone", "start"]


def test_a_run_that_leaves_no_result_is_not_tried_forever(tmp_path):
    with pytest.raises(InputError, match="alone, which failed: it ended without a summary.json"):
        queue.run_all(RECIPES[1:], tmp_path, lambda run: None)


def test_a_stop_ends_the_queue(tmp_path):
    runs = Runs(tmp_path, start=Preempted("stopped"))
    with pytest.raises(Preempted):
        queue.run_all(RECIPES, tmp_path, runs)
    assert runs.order == ["start"]


def test_processes_share_the_cores_and_keep_what_was_printed(tmp_path, monkeypatch):
    program = "print(sorted(__import__('os').sched_getaffinity(0))); raise SystemExit(3)"
    monkeypatch.setattr(queue.shlex, "split", lambda command: ["this", program])
    (tmp_path / "this.py").write_text("import sys; exec(sys.argv[1])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cores = sorted(os.sched_getaffinity(0))
    jobs = len(cores)
    do = queue.processes(tmp_path, jobs)
    for run in RUNS:
        with pytest.raises(InputError, match=f"status 3, see {tmp_path}/{run.workdir}/log.txt"):
            do(run)
    used = [json.loads((tmp_path / run.workdir / "log.txt").read_text()) for run in RUNS]
    assert all(len(share) == 1 for share in used) and set(sum(used, [])) <= set(cores)

"""Successive halving over processes; a small program stands for the runs."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from vit_jax.errors import InputError, Preempted
from vit_jax.finetune import sweep as module
from vit_jax.finetune.config import Wanted
from vit_jax.finetune.sweep import Candidate, sweep

# Scores rise with the rate, up to 1; a rate of 3 diverges. What was done is appended to a file.
RUN = """
import json, pathlib, sys
workdir, rate, decay, share = pathlib.Path(sys.argv[1]), *map(float, sys.argv[2:])
with open(workdir.parents[2] / "done.txt", "a") as file:
    file.write(f"{rate} {decay} {share}\\n")
if rate > 1:
    print("10 steps in a row were not finite", flush=True)
    sys.exit(1)
score = dict(metrics={"eval/test/top1": rate + decay / 100})
(workdir / "summary.json").write_text(json.dumps(score))
"""


@pytest.fixture
def runs(monkeypatch):
    """Replaces the command of each run by `program`, which a test may set."""
    programs = {"program": RUN}

    def command(self, wanted, candidate, rung):
        values = (candidate.rate, candidate.decay or 0, wanted.share or 1)
        workdir = str(self._workdir(candidate, rung))
        return [sys.executable, "-c", programs["program"], workdir, *map(str, values)]

    monkeypatch.setattr(module._Runs, "_command", command)
    return programs


def done(workdir):
    lines = (workdir / "done.txt").read_text().splitlines()
    return [tuple(map(float, line.split())) for line in lines]


def test_the_best_third_goes_on(runs, pretrained, photos_in_splits, tmp_path):
    found = sweep(Wanted(str(pretrained), f"folder:{photos_in_splits}"), str(tmp_path), [])
    first = [(rate, decay) for rate, decay, share in done(tmp_path) if share < 0.2]
    second = [(rate, decay) for rate, decay, share in done(tmp_path) if share > 0.2]
    assert sorted(first) == [(r, d) for r in module.RATES for d in module.DECAYS]
    assert sorted(second) == [(0.3, 0.85), (1, 0.65), (1, 0.85)]
    assert found.wanted.rate is None  # the factor 1
    assert found.wanted.hold_out and not found.wanted.told  # all training images, then val
    assert found.overrides == ["--config.optimizer.layer_decay=0.85"]
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["held_out"] == "train[90%:]" and record["best"] == "rate-1-decay-0.85"
    assert record["rungs"][0]["scores"]["rate-3-decay-0.65"] is None  # diverged


def test_without_a_split_for_evaluation_a_whole_run_tells_the_accuracy(
    runs, pretrained, photos, tmp_path, caplog
):
    caplog.set_level("INFO")
    found = sweep(Wanted(str(pretrained), f"folder:{photos}"), str(tmp_path), [])
    assert done(tmp_path)[-1] == (1, 0.85, 1)
    assert not found.wanted.hold_out and "on train[90%:]" in caplog.text


def test_finished_runs_are_not_repeated(runs, pretrained, photos_in_splits, tmp_path):
    wanted = Wanted(str(pretrained), f"folder:{photos_in_splits}")
    first = sweep(wanted, str(tmp_path), [])
    count = len(done(tmp_path))
    assert sweep(wanted, str(tmp_path), []) == first and len(done(tmp_path)) == count
    (tmp_path / "sweep" / "0.11" / "rate-1-decay-0.65" / "summary.json").unlink()
    assert sweep(wanted, str(tmp_path), []) == first and len(done(tmp_path)) == count + 1


def test_runs_share_the_machine(runs, pretrained, photos_in_splits, tmp_path):
    wanted = Wanted(str(pretrained), f"folder:{photos_in_splits}")
    assert sweep(wanted, str(tmp_path), [], jobs=2).overrides
    assert len(done(tmp_path)) == len(module.RATES) * len(module.DECAYS) + 3


def test_what_the_user_sets_is_not_tried(runs, pretrained, photos_in_splits, tmp_path):
    wanted = Wanted(str(pretrained), f"folder:{photos_in_splits}")
    overrides = ["--config.optimizer.layer_decay=0.5", "--config.optimizer.learning_rate=0.1"]
    found = sweep(wanted, str(tmp_path), overrides)
    assert set(done(tmp_path)) == {(1, 0, 1 / 9), (1, 0, 1 / 3)} and not found.overrides


def test_a_run_that_is_refused_ends_the_sweep(runs, pretrained, photos_in_splits, tmp_path):
    runs["program"] = "import sys; sys.exit('vit_jax: no such thing')"
    with pytest.raises(InputError, match="ended with status 1: vit_jax: no such thing"):
        sweep(Wanted(str(pretrained), f"folder:{photos_in_splits}"), str(tmp_path), [])


def test_runs_that_all_diverge(runs, pretrained, photos_in_splits, tmp_path):
    runs["program"] = "import sys; sys.exit('the last step was not finite')"
    with pytest.raises(InputError, match="all runs of the sweep diverged"):
        sweep(Wanted(str(pretrained), f"folder:{photos_in_splits}"), str(tmp_path), [])


def test_a_split_that_is_a_slice_is_refused(pretrained, photos, tmp_path):
    told = {"data.split": "train[:50%]", "evals.test.split": "train[50%:]"}
    with pytest.raises(InputError, match="name a whole split"):
        sweep(Wanted(str(pretrained), f"folder:{photos}", told=told), str(tmp_path), [])


def test_a_signal_stops_the_runs_first(tmp_path):
    program = textwrap.dedent("""
        import subprocess, sys, time
        from vit_jax.errors import Preempted
        from vit_jax.finetune.sweep import Candidate, _stopping
        child = "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(75))"
        child += "; print(1, flush=True); time.sleep(60)"
        try:
            with _stopping() as work:
                one = work[Candidate(1, None)] = subprocess.Popen(
                    [sys.executable, "-c", child], stdout=subprocess.PIPE)
                one.stdout.readline()
                print("ready", flush=True)
                time.sleep(60)
        except Preempted:
            sys.exit(0 if one.returncode == 75 else 3)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0 and time.monotonic() - started < 50


def test_names_of_workdirs():
    assert Candidate(0.3, None).name == "rate-0.3"
    assert Candidate(1.0, 0.65).name == "rate-1-decay-0.65"
    assert issubclass(Preempted, Exception)

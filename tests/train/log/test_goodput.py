"""The account of a run's time over several starts, one of them killed."""

import json

import pytest

from vit_jax.train.log import clock as clocks
from vit_jax.train.log.clock import Clock
from vit_jax.train.log.goodput import Goodput


@pytest.fixture
def time(monkeypatch):
    """A clock that stands still until it is told to go on."""
    now = [1000.0]
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def spend(time, clock, **phases):
    for phase, seconds in phases.items():
        with clock.phase(phase):
            time(seconds)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "goodput.jsonl").read_text().splitlines()]


def test_phases_of_all_starts_sum_up_to_the_wall_time(time, tmp_path):
    first = Clock()
    goodput = Goodput(tmp_path, first, write=True)
    spend(time, first, start=4, compile=6, step=7)
    time(0.5)  # in no phase
    goodput.record(30)
    spend(time, first, step=0.4)
    goodput.record(31)  # too early for a line: lost when it is killed now
    with (tmp_path / "goodput.jsonl").open("a") as file:
        file.write('{"start": 1, "wall": 99')  # the kill tears a line

    second = Clock()
    goodput = Goodput(tmp_path, second, write=True)
    assert goodput.reached == 30
    spend(time, second, start=3, redone=2, step=10, data=1, checkpoint=0.25, eval=2)
    goodput.record(60)
    goodput.close()

    assert [(line["start"], line["step"]) for line in lines(tmp_path)][-1] == (2, 60)
    summary = goodput.summary()
    assert summary["wall"] == 4 + 6 + 7 + 0.5 + 18.25
    assert sum(summary["seconds"].values()) == pytest.approx(summary["wall"], abs=0.01)
    assert summary["seconds"]["step"] == 17 and summary["seconds"]["redone"] == 2
    assert summary["seconds"]["other"] == 0.5
    assert summary["share"] == pytest.approx(17 / 35.75, abs=1e-4)
    assert summary["starts"] == 2


def test_time_of_the_phase_under_way_belongs_to_it(time, tmp_path):
    clock = Clock()
    goodput = Goodput(tmp_path, clock, write=True)
    with clock.phase("start"):
        time(5)
        goodput.record(0)
    assert lines(tmp_path)[-1]["seconds"] == {"start": 5, "other": 0}


def test_a_long_run_writes_few_lines(time, tmp_path):
    """Lines a hundredth of the time so far apart: ten days are about a thousand."""
    clock = Clock()
    goodput = Goodput(tmp_path, clock, write=True)
    for step in range(1, 86_401):
        time(10)
        goodput.record(step)
    assert 500 < len(lines(tmp_path)) < 1500


def test_other_processes_write_nothing(tmp_path):
    Goodput(tmp_path, Clock(), write=False).close()
    assert not list(tmp_path.iterdir())

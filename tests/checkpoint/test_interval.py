"""Checkpoints by steps and by the clock."""

import pytest

from vit_jax import config as configs
from vit_jax.checkpoint import interval
from vit_jax.checkpoint.interval import SaveInterval


def saves(monkeypatch, *, steps, pace, cost=0.0, every=None, start=0, **options):
    """(step, seconds) of the checkpoints of a run whose step `i` takes `pace(i)` seconds."""
    now = [0.0]
    monkeypatch.setattr(interval.time, "monotonic", lambda: now[0])
    config = configs.default().checkpoint
    config.update(options)
    schedule, found = SaveInterval(config, every, start), []
    for step in range(start + 1, steps + 1):
        now[0] += pace(step)
        if schedule.due(step):
            found.append((step, now[0]))
            now[0] += cost
            schedule.saved(step, cost)
    return found, now[0]


def test_by_the_clock_checkpoints_are_ten_minutes_apart(monkeypatch):
    """But for the one in which the pace changes, also where the first step compiles."""

    def pace(step):
        return 60 if step == 1 else 0.5 if step < 5000 else 2.0

    found, _ = saves(monkeypatch, steps=8000, pace=pace)
    times = [0.0, *(seconds for _, seconds in found)]
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert len(gaps) > 10 and min(gaps) >= 600
    assert sorted(gaps)[-2] <= 604 and max(gaps) < 1200


@pytest.mark.parametrize("cost", [1.0, 20.0, 120.0])
def test_by_the_clock_saving_takes_a_hundredth_of_the_time_at_most(monkeypatch, cost):
    found, seconds = saves(monkeypatch, steps=100_000, pace=lambda step: 0.7, cost=cost)
    assert len(found) > 5
    # The first is made before its cost is known.
    assert (len(found) - 1) * cost <= 0.01 * seconds


def test_the_time_is_looked_at_rarely(monkeypatch):
    looks = []
    steps_left = SaveInterval._steps_left
    monkeypatch.setattr(
        SaveInterval, "_steps_left", lambda self, step: looks.append(step) or steps_left(self, step)
    )
    found, _ = saves(monkeypatch, steps=6_000, pace=lambda step: 0.1)
    assert [step for step, _ in found] == [6000] and len(looks) < 20


def test_by_steps_and_those_kept_for_good(monkeypatch):
    pace = lambda step: 1e6  # noqa: E731
    found, _ = saves(monkeypatch, steps=50, pace=pace, every=20, keep_every=25, start=10)
    assert [step for step, _ in found] == [20, 25, 40, 50]


@pytest.mark.parametrize("options", [dict(every=0), dict(minutes=0.0)])
def test_never(monkeypatch, options):
    assert saves(monkeypatch, steps=200, pace=lambda step: 1e6, **options)[0] == []

"""What failures cost, against SciPy and a simulation of failing runs."""

import math

import numpy as np
import pytest
from scipy.special import lambertw

from vit_jax.errors import InputError
from vit_jax.plan.answers.failures import best_interval, slowdown
from vit_jax.plan.answers.questions import Mtbf, parse_mtbf

HOUR = 3600.0


@pytest.mark.parametrize("stall, mtbf", [(1, 6 * HOUR), (30, HOUR), (600, HOUR), (1e4, HOUR)])
def test_the_best_interval_is_that_of_the_lambert_function(stall, mtbf):
    """(1 - x) exp(x + d) = 1 is solved by x = 1 + W(-exp(-1 - d))."""
    exact = mtbf * (1 + lambertw(-math.exp(-1 - stall / mtbf)).real)
    found = best_interval(stall=stall, mtbf=mtbf)
    assert found == pytest.approx(exact, rel=1e-6)
    times = [
        slowdown(interval=found * f, stall=stall, restart=60, mtbf=mtbf) for f in (0.9, 1, 1.1)
    ]
    assert times[1] == min(times)


@pytest.mark.parametrize("mtbf, minutes", [(24 * HOUR, 117), (6 * HOUR, 57), (HOUR / 4, 9.1)])
def test_the_best_intervals_are_those_of_the_paper(mtbf, minutes):
    """Daly, figures 3 to 5: dumps of 5 minutes; his intervals are approximations."""
    assert best_interval(stall=300, mtbf=mtbf) / 60 == pytest.approx(minutes, rel=0.01)


def test_failures_that_are_rare_give_the_interval_of_young():
    stall, mtbf = 2.0, 100 * HOUR
    assert best_interval(stall=stall, mtbf=mtbf) == pytest.approx(
        math.sqrt(2 * stall * mtbf), rel=0.01
    )
    # Young's loss: a stall each interval, and half of an interval each failure.
    interval = math.sqrt(2 * stall * mtbf)
    loss = stall / interval + interval / 2 / mtbf
    found = slowdown(interval=interval, stall=stall, restart=0, mtbf=mtbf)
    assert found - 1 == pytest.approx(loss, rel=0.01)


def test_a_simulated_run_takes_as_long():
    interval, stall, restart, mtbf = 1200.0, 60.0, 600.0, 3000.0
    draw = np.random.default_rng(0)
    seconds, intervals = 0.0, 20_000
    for _ in range(intervals):
        needed = interval + stall
        while (alive := draw.exponential(mtbf)) < needed:
            seconds += alive
            needed = restart + interval + stall
        seconds += needed
    found = slowdown(interval=interval, stall=stall, restart=restart, mtbf=mtbf)
    assert seconds / (intervals * interval) == pytest.approx(found, rel=0.02)


def test_a_run_that_fails_all_the_time_never_ends():
    assert slowdown(interval=1e6, stall=1, restart=1, mtbf=1) == math.inf


def test_failures_of_chips_slices_and_runs():
    assert Mtbf(1000).seconds(chips=256, slices=2) == 1000 * HOUR / 256
    assert parse_mtbf("1000") == parse_mtbf("1000/chip") == Mtbf(1000, "chip")
    assert parse_mtbf("100/slice").seconds(chips=256, slices=2) == 50 * HOUR
    assert parse_mtbf("6/run").seconds(chips=256, slices=2) == 6 * HOUR
    for wrong in ("", "0", "-1", "nan", "inf", "5/day", "x/chip", "5/chip/run"):
        with pytest.raises(InputError, match="--mtbf="):
            parse_mtbf(wrong)

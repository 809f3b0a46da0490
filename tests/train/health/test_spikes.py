"""Loss spikes: found, counted once each, and the same after a restart."""

import numpy as np
import pytest

from vit_jax.train.health.spikes import ENOUGH, SpikeWatch


def losses(steps=200):
    rng = np.random.default_rng(0)
    falling = 2.3 * np.exp(-np.arange(steps) / 100) * rng.uniform(0.8, 1.25, steps)
    falling[[60, 61, 62, 120]] *= 8  # two spikes, one of three steps
    return falling.tolist()


def watch(values, memory=None, factor=3.0, first=0):
    spikes = SpikeWatch(factor, memory)
    for step, loss in enumerate(values, first):
        spikes.see(step, loss)
    return spikes


def test_each_spike_is_counted_once_and_logged(caplog):
    assert watch(losses()).count == 2
    assert [record.message.split(":")[0] for record in caplog.records] == ["step 60", "step 120"]


@pytest.mark.parametrize("at", [30, 61, 100])
def test_a_restart_goes_on_as_if_there_had_been_none(at):
    """Also where it comes in the middle of a spike."""
    memory = watch(losses()[:at]).memory()
    assert watch(losses()[at:], memory, first=at).memory() == watch(losses()).memory()


def test_off_and_too_early_there_are_none():
    assert watch(losses(), factor=0.0).count == 0
    assert watch([1.0] * (ENOUGH - 1) + [100.0]).count == 0


def test_losses_that_are_not_finite_do_not_count():
    spikes = watch([1.0] * 40 + [float("nan"), float("inf")])
    assert spikes.count == 0 and len(spikes.memory()["losses"]) == 40

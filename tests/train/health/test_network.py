"""The network's speed, measured on eight host devices."""

import logging

import jax
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.parallel import hardware
from vit_jax.parallel.engines import create_engine
from vit_jax.parallel.hardware import Chip
from vit_jax.train.health import network
from vit_jax.train.health.network import Measured, all_reduce_bandwidth, check_network


def mesh(**sizes):
    parallel = configs.default().parallel
    parallel.update(sizes)
    return create_engine(parallel).mesh


@pytest.mark.parametrize(
    "sizes, axes",
    [
        (dict(data=2, fsdp=4), [("data", 2), ("fsdp", 4)]),
        (dict(replica=2, data=2, tensor=2), [("replica", 2), ("data", 2), ("tensor", 2)]),
        (dict(engine="pmap"), [("batch", 8)]),
    ],
)
def test_each_axis_is_measured(sizes, axes, caplog):
    with caplog.at_level(logging.INFO):
        found = check_network(mesh(**sizes))
    assert [(one.axis, one.group) for one in found] == axes
    assert all(one.bandwidth > 0 and not one.slow for one in found)
    for axis, group in axes:
        assert f"network: all-reduce along {axis} ({group} devices): " in caplog.text
    assert "no figure is published" in caplog.text


def test_the_bandwidth_is_that_of_a_ring(monkeypatch):
    """A clock that advances a second a call: 2 (n - 1) / n of the bytes in a second."""
    ticks = iter(range(100))
    monkeypatch.setattr(network.time, "perf_counter", lambda: float(next(ticks)))
    size = 4096
    assert all_reduce_bandwidth(mesh(data=2, fsdp=4), "fsdp", size) == 2 * size * 3 / 4
    assert all_reduce_bandwidth(mesh(data=2, fsdp=4), "data", size) == 2 * size * 1 / 2


def test_a_fraction_of_the_published_figure_is_a_warning(monkeypatch, caplog):
    fast = Chip("cpu", 1e12, 1, 1e11, 1e15, devices=2)
    monkeypatch.setattr(hardware, "CHIPS", (*hardware.CHIPS, fast))
    with caplog.at_level(logging.INFO):
        (one,) = check_network(mesh(data=8))
    assert one.slow and one.published == 0.5e15
    assert "of the chip's 5e+05 GB/s" in caplog.text and "network: data is slow" in caplog.text
    assert not Measured("data", 8, 20.0, 100.0).slow and Measured("data", 8, 19.0, 100.0).slow


def test_between_slices_the_figure_is_that_of_the_slow_network(monkeypatch):
    chip = Chip("cpu", 1e12, 1, 1e11, 100.0, slice_bandwidth=3.0)
    monkeypatch.setattr(hardware, "CHIPS", (*hardware.CHIPS, chip))
    found = mesh(replica=2, data=4)
    assert network.published(found, "replica") == 100.0  # no slices here
    monkeypatch.setattr(network, "num_slices", lambda devices: 2)
    assert network.published(found, "replica") == 3.0
    assert network.published(found, "data") == 100.0


def test_one_device_has_no_network(caplog):
    parallel = configs.default().parallel
    one = create_engine(parallel, jax.devices()[:1]).mesh
    assert check_network(one) == [] and np.prod(list(one.shape.values())) == 1

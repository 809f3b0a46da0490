"""Descriptions of devices against those of libtpu, and what is refused."""

import math

import pytest

from vit_jax.errors import InputError
from vit_jax.parallel import hardware
from vit_jax.parallel.mesh import slice_of
from vit_jax.plan.analytic.devices import describe_devices
from vit_jax.plan.compile import topology_devices
from vit_jax.plan.layouts.search import larger


@pytest.mark.parametrize(
    "name", ["v3:2x2", "v4:2x2x2", "v5e:4x4", "v5p:2x2x4", "v6e:2x4", "tpu7x:2x2x4"]
)
@pytest.mark.parametrize("slices", [1, 2])
def test_descriptions_are_of_the_devices_that_the_compiler_has(name, slices):
    pytest.importorskip("libtpu")
    ours, theirs = describe_devices(name, slices), topology_devices(name, slices)
    assert len(ours) == len(theirs)
    assert {d.device_kind for d in ours} == {d.device_kind for d in theirs}

    def places(devices):
        return sorted((slice_of(d), tuple(d.coords), d.core_on_chip) for d in devices)

    assert places(ours) == places(theirs)


@pytest.mark.parametrize(
    "name, devices, kind, memory",
    [
        ("v3:8x8", 128, "TPU v3", 32),  # two a chip
        ("v5e:16x16", 256, "TPU v5 lite", 16),
        ("tpu7x:4x4x4", 128, "TPU7x", 192),
        ("h100:8x8", 64, "NVIDIA H100 80GB HBM3", 80),
        ("gb200:2x72", 144, "NVIDIA GB200", 186),
    ],
)
def test_devices_of_a_topology(name, devices, kind, memory):
    found = describe_devices(name)
    assert (len(found), found[0].device_kind) == (devices, kind)
    assert hardware.find_chip(kind).memory_bytes == memory * 2**30


def test_every_kind_of_a_topology_is_in_the_table_of_chips():
    for generation in hardware.TPUS.values():
        chip = hardware.find_chip(generation.kind)
        assert chip.axes == len(generation.pod) and chip.on_chip > 0
        assert list(generation.slices) == sorted(generation.slices, key=math.prod)
    for kind, _ in hardware.GPUS.values():
        assert hardware.find_chip(kind).slice_bandwidth > 0


@pytest.mark.parametrize(
    "name, message",
    [
        ("v9:2x2", "unknown topology 'v9'"),
        ("v5e:3x3", "no TPU topology 'v5e:3x3'; slices of v5e: 1x1, 2x2, 2x4"),
        ("v5e", "slices of v5e"),
        ("v5e:2x", "slices of v5e"),
        ("h100", "write h100:NODESxGPUS, with at most 8 GPUs"),
        ("h100:2x16", "with at most 8 GPUs that NVLink connects"),
        ("h100:0x8", "write h100:NODESxGPUS"),
        ("gb200:1x73", "at most 72 GPUs"),
        ("h100:99999x8", "at most 65,536 GPUs are planned for"),
    ],
)
def test_wrong_topologies_are_refused(name, message):
    with pytest.raises(InputError) as error:
        describe_devices(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_larger_topologies_ascend():
    assert list(larger("v5e:4x8")) == ["v5e:8x8", "v5e:8x16", "v5e:16x16"]
    assert list(larger("v5e:16x16")) == []
    assert list(larger("h100:1x4"))[:2] == ["h100:1x8", "h100:2x8"]
    assert list(larger("h100:2x8"))[:2] == ["h100:4x8", "h100:8x8"]

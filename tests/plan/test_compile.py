import importlib.util
import os
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.plan import compile as compiling

GIB = 2**30


def test_without_the_compiler_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'vit_jax\[plan\]'") as error:
        compiling.topology_devices("v5e:2x2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, devices, kind",
    [
        ("v3:2x2", 8, "TPU v3"),  # two a chip
        ("v4:2x2x2", 8, "TPU v4"),
        ("v5e:1x1", 1, "TPU v5 lite"),
        ("v5e:4x4", 16, "TPU v5 lite"),
        ("v5p:2x2x2", 8, "TPU v5"),
        ("v6e:2x2", 4, "TPU v6 lite"),
    ],
)
def test_topologies_have_the_devices_that_jax_shows(name, devices, kind):
    pytest.importorskip("libtpu")
    found = compiling.topology_devices(name)
    assert (len(found), found[0].device_kind) == (devices, kind)


@pytest.mark.parametrize("name", ["v5e", "v5e:3x", "v9:2x2", "v5e:2x3"])
def test_wrong_topologies_are_refused(name):
    pytest.importorskip("libtpu")
    with pytest.raises(InputError, match="write e.g. v5e:16x16") as error:
        compiling.topology_devices(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, pod", [("v5e:64x64", "16x16"), ("v5p:16x20x32", "16x20x28")])
def test_what_is_larger_than_a_pod_is_refused(name, pod):
    """The compiler would end the process."""
    pytest.importorskip("libtpu")
    with pytest.raises(InputError, match=f"a whole {name[:3]} pod has {pod} chips"):
        compiling.topology_devices(name)


@pytest.mark.parametrize(
    "message, total, limit",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (18.96G) exceeds available HBM (15.75G).",
            18.96 + 2,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: CompileTimeHbmOom: Ran out of memory in memory space hbm. Used "
            "27.32G of 15.75G hbm. Exceeded hbm capacity by 11.57G.",
            27.32,
            15.75,
        ),
    ],
)
def test_both_ways_of_running_out_of_memory_are_understood(message, total, limit):
    error = jax.errors.JaxRuntimeError(message)
    found = compiling._what_did_not_fit(error, 2 * GIB)
    assert found == (pytest.approx(total * GIB), pytest.approx(limit * GIB))


def test_other_errors_of_the_compiler_are_not_swallowed():
    error = jax.errors.JaxRuntimeError("INTERNAL: a bug")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        compiling._what_did_not_fit(error, 0)


def test_memory_of_devices():
    def device(platform, kind):
        return SimpleNamespace(platform=platform, device_kind=kind)

    assert compiling.memory_of(device("tpu", "TPU v3")) == 16 * GIB  # half a chip
    assert compiling.memory_of(device("tpu", "TPU v5 lite")) == 16 * GIB
    assert compiling.memory_of(device("gpu", "NVIDIA H100 80GB HBM3")) == 80 * GIB
    assert compiling.memory_of(device("gpu", "NVIDIA A100-PCIE-40GB")) == 40 * GIB
    assert compiling.memory_of(device("gpu", "Tesla V100-SXM2-16GB")) == 16 * GIB
    assert compiling.memory_of(device("gpu", "NVIDIA L40S")) == 48 * GIB
    assert compiling.memory_of(device("gpu", "unheard of")) is None
    present = device("gpu", "unheard of")
    present.memory_stats = lambda: dict(bytes_limit=7)
    assert compiling.memory_of(present) == 7
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert compiling.memory_of(jax.devices()[0]) == machine // 8


def test_local_bytes_are_those_of_one_shard():
    mesh = Mesh(jax.devices(), ("fsdp",), axis_types=(AxisType.Auto,))

    def leaf(spec, shape=(16, 3), dtype="float32"):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    tree = dict(split=leaf(["fsdp"]), whole=leaf([]), scalar=leaf([], (), "int32"), none=None)
    assert compiling.local_bytes(tree) == 2 * 3 * 4 + 16 * 3 * 4 + 4

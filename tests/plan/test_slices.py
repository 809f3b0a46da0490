"""Plans for several slices: what the compiled step sends between them, and what is refused."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.plan.planning import plan
from vit_jax.parallel import hardware
from vit_jax.plan.compile import topology_devices
from vit_jax.plan.text import lines

ROOT = Path(__file__).parents[2]
WIDTH, DEPTH, MLP, TOKENS = 128, 2, 512, 17
CONFIG = f"""
from vit_jax.config import default

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/4", width={WIDTH}, depth={DEPTH}, mlp_dim={MLP}, num_heads=1)
    config.total.steps = 100
    config.batch_size = 64
    config.data.update(source="tfds:cifar10", pp="decode|resize(16)|value_range(-1, 1)")
    return config
"""
KERNELS = DEPTH * (4 * WIDTH * WIDTH + 2 * WIDTH * MLP)
OTHERS = (
    DEPTH * (3 * WIDTH + WIDTH + MLP + WIDTH + 4 * WIDTH)
    + (48 * WIDTH + WIDTH)
    + (WIDTH + TOKENS * WIDTH)
    + 2 * WIDTH
    + (WIDTH * 10 + 10)
)
GRADIENTS = 4 * (KERNELS + OTHERS)  # bytes


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    "topology, slices, parallel, share, gbit",
    [
        ("v5e:1x1", 2, ["data=1"], 2 * 1 / 2, 8),
        ("v5e:2x2", 2, ["data=4"], 2 * 1 / 2 / 4, None),
        ("v5e:2x2", 4, ["data=1", "fsdp=4"], 2 * 3 / 4 / 4, None),
    ],
)
def test_the_compiled_step_sends_the_gradients_between_slices(
    topology, slices, parallel, share, gbit, config_file
):
    """A ring of k slices, each device with its share: 2 (k - 1) / k of it."""
    pytest.importorskip("libtpu")
    options = [f"--config.parallel.{option}" for option in (f"replica={slices}", *parallel)]
    options += [f"--slice-bandwidth={gbit}"] if gbit else []
    args = [f"--config={config_file}", f"--topology={topology}", f"--slices={slices}", *options]
    status, out = plan(*args, "--json")
    found = json.loads(out)
    devices = slices * (4 if topology == "v5e:2x2" else 1)
    assert (status, found["slices"], found["devices"]) == (0, slices, devices)
    sent = found["collective_bytes_between_slices"]
    assert found["collective_bytes_between_slices_minimum"] == pytest.approx(GRADIENTS * share)
    # On top come the loss and the padding of small arrays: chips store rows of 128 values, by 8.
    assert GRADIENTS * share <= sent <= GRADIENTS * share + 12 * OTHERS
    assert found["collectives_between_slices"] == {"all-reduce": sent}
    assert found["collective_bytes_per_step"] >= sent
    if topology == "v5e:1x1":
        assert found["collective_bytes_per_step"] == sent  # within a slice is nobody else
    # Published: 6.4 Tbit/s a pod of 256 chips, 25 Gbit/s a chip.
    roofline = found["roofline"]
    assert roofline["between_slices"] == pytest.approx(8 * sent / (gbit or 25) / 1e9)
    assert found["step_seconds"] >= roofline["step"] >= roofline["between_slices"]
    text = "\n".join(lines(found))
    assert f"{devices} TPU v5 lite in {slices} slices" in text and "\nwithin slices  " in text
    assert f"\nbetween slices all-reduce {sent / 2**20:.2f} MiB a step" in text


@pytest.mark.parametrize(
    "name, gbit", [("TPU v5 lite", 25), ("TPU v5", 50), ("TPU v6 lite", 100), ("TPU7x", 100)]
)
def test_published_speeds_of_the_network_between_slices(name, gbit):
    """Cloud TPU's documentation, "data center network (DCN) bandwidth per chip (Gbps)"."""
    assert hardware.find_chip(name).slice_bandwidth * 8 == gbit * 1e9


WRONG = [
    (["--slices=2"], "--slices=2 needs --topology"),
    (["--slice-bandwidth=50"], "--slice-bandwidth=50 needs --slices above 1"),
    (["--topology=v5e:2x2", "--slices=0"], "--slices=0: give a number from 1 to"),
    (["--topology=v5e:2x2", "--slices=1000000000"], "--slices=1000000000: give a number from 1 to"),
    (["--topology=v5e:2x2", "--slices=2", "--slice-bandwidth=0"], "=0: give Gbit/s above 0"),
    (["--topology=v5e:2x2", "--slices=2", "--slice-bandwidth=nan"], "=nan: give Gbit/s above 0"),
]
NOT_FITTING = [
    (["--topology=v4:2x2x1", "--slices=2"], "published for TPU v4; give --slice-bandwidth=GBITS"),
    (
        ["--topology=v5e:2x2", "--slices=2", "--config.parallel.engine=pmap"],
        "pmap compiles for one host, not for 2: plan with --config.parallel.engine=pjit",
    ),
]


@pytest.mark.parametrize("args, message", WRONG + NOT_FITTING)
def test_wrong_input_is_one_line(args, message, config_file, capsys):
    if (args, message) in NOT_FITTING:
        pytest.importorskip("libtpu")
    assert plan(f"--config={config_file}", *args) == (2, "")
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check", ROOT / "launch/check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "options, slices",
    [
        ([], 2),
        (["parallel.replica=3"], 2),
        (["parallel.replica=2"], 3),
        (["parallel.replica=2", "batch_size=63"], 2),
        (["parallel.replica=2", "parallel.fsdp=3"], 2),
        (["parallel.replica=2", "parallel.data=2"], 2),
    ],
)
def test_the_check_of_a_launch_refuses_what_the_plan_refuses(
    options, slices, check, config_file, monkeypatch, capsys
):
    pytest.importorskip("libtpu")
    words = [f"--config={config_file}", *(f"--config.{option}" for option in options)]
    assert plan(*words, "--topology=v5e:2x2", f"--slices={slices}") == (2, "")
    planned = capsys.readouterr().err.splitlines()[-1].removeprefix("vit_jax: ")
    ours = ["check.py", "--tpu=v5litepod-4", f"--slices={slices}", "--", "--workdir=/x", *words]
    monkeypatch.setattr("sys.argv", ours)
    assert check.main() == 2
    assert capsys.readouterr().err.splitlines() == [f"launch/check.py: {planned}"]


def test_the_check_of_a_launch_counts_the_devices_of_the_plan(check):
    pytest.importorskip("libtpu")
    for kind, topology in [("v5litepod-16", "v5e:4x4"), ("v4-8", "v4:2x2x1"), ("v3-8", "v3:2x2")]:
        assert 2 * check.tpu_devices(kind) == len(topology_devices(topology, slices=2))

"""Input, checkpoints, cost and energy of a plan, against closed forms."""

import json

import pytest

from tests.plan.planning import plan
from tests.plan.test_plan import CONFIG, PARAMS
from vit_jax.parallel import hardware
from vit_jax.parallel.hardware import GIB, Chip
from vit_jax.plan.answers.checkpoints import checkpoint
from vit_jax.plan.answers.cost import cost, energy
from vit_jax.plan.answers.data_input import needed
from vit_jax.plan.answers.machines import HOSTS, WATTS, chip_watts, host_cores
from vit_jax.plan.answers.text import duration, rows
from vit_jax.plan.text import lines

DAY = 86_400


def test_the_input_of_l16_at_its_roofline():
    """4,096 images of 224 x 224 x 3 bytes and a label of four in 37.1 ms, on 64 hosts."""
    found = needed(
        batch_size=4096,
        bytes_per_image=224 * 224 * 3 + 4,
        step_seconds=0.0371,
        readers=64,
        images_per_core=50,
        host_cores=112,
    )
    images = 4096 / 0.0371  # 110,404
    assert found["images_per_second"] == pytest.approx(images)
    assert found["bytes_per_second"] == pytest.approx(images * 150_532)
    assert found["images_per_second_per_host"] == pytest.approx(images / 64)  # 1,725
    assert found["bytes_per_second_per_host"] == pytest.approx(images * 150_532 / 64)
    assert found["cores_per_host"] == 35  # 34.5
    assert found["step_seconds"] == pytest.approx(4096 / (64 * 112 * 50))
    unknown = needed(batch_size=1, bytes_per_image=1, step_seconds=1, readers=1, host_cores=4)
    assert unknown["cores_per_host"] is None and unknown["step_seconds"] is None


SAVED = dict(state_bytes=8_000, hosts=4, copy_bandwidth=1_000, storage_bandwidth=100)


@pytest.mark.parametrize(
    "interval, stall, every",
    [
        (dict(minutes=10, every_seconds=None), 2, 600),
        (dict(minutes=10, every_seconds=30.0), 2, 30),
        (dict(minutes=1, every_seconds=None), 2, 200),  # waiting may take a hundredth of the time
        (dict(minutes=None, every_seconds=15.0), 2 + 5, 15),  # writing takes 20 s
        (dict(minutes=0, every_seconds=None), 2, None),
    ],
)
def test_training_waits_for_the_copy_and_for_a_slow_disk(interval, stall, every):
    found = checkpoint(**SAVED, **interval)
    assert (found["copy_seconds"], found["write_seconds"]) == (2, 20)
    assert (found["stall_seconds"], found["interval_seconds"]) == (stall, every)
    assert found["stall_share"] == pytest.approx(stall / (every + stall) if every else 0)


def test_cost_and_energy():
    assert cost(price=1.2, chips=256, days=2.44) == pytest.approx(1.2 * 256 * 2.44 * 24)
    assert energy(watts=700, chips=64, days=1) == pytest.approx(0.7 * 64 * 24)


def test_machines_are_those_of_chips_that_exist():
    kinds = {chip.name for chip in hardware.CHIPS}
    assert HOSTS.keys() <= kinds and WATTS.keys() - kinds <= {"NVIDIA GB200"}
    assert chip_watts("NVIDIA H100 80GB HBM3") == 700
    assert chip_watts("TPU v5e") is None and chip_watts("cpu") is None


def test_times_have_fitting_units():
    assert [duration(s) for s in (0.5, 119, 120, 7200, 3 * DAY)] == [
        *("0.5 s", "119 s", "2 min", "2 h", "3 days")
    ]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """planned(*args) -> the text and document of a plan on 8 CPUs with a known peak speed."""
    monkeypatch.setattr(
        hardware, "CHIPS", (*hardware.CHIPS, Chip("cpu", 1e12, 16 * GIB, 1e11, 1e10))
    )
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)

    def run(*args):
        status, out = plan(f"--config={path}", "--json", *args)
        assert status == 0
        return json.loads(out)

    return run


def test_the_run_is_as_slow_as_its_input(planned):
    found = planned(
        *("--images-per-core=100", "--host-cores=2", "--price=2", "--chip-power=50"),
        *("--mtbf=80/chip", "--restart=5", "--storage-bandwidth=1", "--copy-bandwidth=5"),
        *("--config.checkpoint.every.steps=1000", "--scaling=1:128"),
    )
    # One host of two cores, 100 images per second each; a step has 64.
    assert found["bottleneck"] == "input" and found["bound_by_input"]
    assert found["step_seconds"] == pytest.approx(0.32)
    days = 0.32 * found["steps"] / DAY
    assert found["days"] == pytest.approx(days)
    asked = found["input"]
    per_image = 16 * 16 * 3 + 4
    assert asked["bytes_per_second"] == pytest.approx(asked["images_per_second"] * per_image)
    assert asked["cores_per_host"] > 2
    # float32 parameters and two moments of Adam; counters.
    saved = found["checkpoint"]
    assert 12 * PARAMS <= saved["bytes"] <= 12 * PARAMS + 20
    assert saved["write_seconds"] == pytest.approx(saved["bytes"] / 1e9)
    assert saved["stall_seconds"] == pytest.approx(saved["bytes"] / 5e9)
    failing = found["failures"]
    assert saved["interval_seconds"] == pytest.approx(min(320, days * DAY))
    assert failing["mtbf_seconds"] == 80 * 3600 / 8
    # Young: a failure costs the restart and half of an interval.
    loss = (300 + min(320, days * DAY) / 2) / 36_000
    assert 1 / failing["goodput"] - 1 == pytest.approx(loss, rel=0.02)
    assert found["expected_days"] == pytest.approx(days / failing["goodput"])
    assert failing["best_goodput"] > failing["goodput"]
    assert found["cost"] == pytest.approx(2 * 8 * 24 * found["expected_days"])
    assert found["energy_kwh"] == pytest.approx(0.05 * 8 * 24 * found["expected_days"])
    # Chips in one host: with all of them, 0.32 s for the input.
    curve = {point["chips"]: point for point in found["scaling"]}
    assert curve[8]["limit"] == "input" and curve[8]["input"] == pytest.approx(0.32)
    assert curve[8]["compute"] == pytest.approx(64 * found["flops_per_image"] / (8 * 0.4 * 1e12))
    assert curve[128]["limit"].startswith("batch")
    text = "\n".join([*lines(found), *(": ".join(row) for row in rows(found, "tiny.py"))])
    assert "days at the speed of the input, 320 ms a step" in text
    assert "too few: a step takes 320 ms" in text and "best interval: --config.ch" in text


def test_a_plan_says_how_to_measure_the_input(planned):
    found = planned()
    assert found["bottleneck"] == found["roofline"]["bottleneck"] and not found["bound_by_input"]
    assert found["failures"] is None and found["cost"] is None and found["energy_kwh"] is None
    assert found["checkpoint"]["interval_seconds"] == 600
    text = dict(rows(found, "tiny.py"))
    assert "`vit_jax data --config=tiny.py`" in text["input cores"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--price=1"], "--price: no peak speed is known for cpu"),
        (["--mtbf=1/week"], "--mtbf=1/week: give hours"),
        (["--host-cores=2"], "--host-cores=2 needs --images-per-core"),
        (["--restart=2"], "--restart=2 needs --mtbf"),
        (["--scaling=16"], "--scaling=16: give the least and the most chips"),
        (["--scaling=16:8"], "--scaling=16:8: give"),
        (["--compare=v5e"], "--compare: 'v5e' is no offer"),
        (["--compare=v5e:2x2@x"], "is no offer"),
        (["--compare=v5e:2x2,0*v5e:2x2"], "'0*v5e:2x2' is no offer"),
        (["--price=-1"], "--price: -1 is out of range; give a number from 0"),
        (["--copy-bandwidth=0"], "0 is out of range; give a number above 0"),
    ],
)
def test_wrong_input_is_one_line(args, message, tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    assert plan(f"--config={path}", *args) == (2, "")
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "topology, cores", [("v5e:4x4", 112), ("v4:2x2x1", 240), ("v5p:2x2x1", 208)]
)
def test_cores_of_hosts_of_tpus(topology, cores):
    pytest.importorskip("libtpu")
    from vit_jax.plan.compile import topology_devices

    assert host_cores(topology_devices(topology)) == cores

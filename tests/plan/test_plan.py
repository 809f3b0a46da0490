"""The command `plan`, end to end on the devices present."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.plan.planning import plan
from vit_jax.parallel import hardware
from vit_jax.plan import compile as compiling
from vit_jax.plan import search
from vit_jax.plan.report import run_time
from vit_jax.plan.text import lines

CONFIG = """
from vit_jax.config import default, duration

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2)
    config.total = duration(epochs=2.0)
    config.batch_size = 64
    config.data.update(source="tfds:cifar10", pp="decode|resize(16)|value_range(-1, 1)")
    return config
"""
# 2 blocks: qkv, out, two dense layers, two norms; patches, class token, positions; norm, head.
BLOCK = (32 * 96 + 96) + (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 4 * 32
PARAMS = 2 * BLOCK + (48 * 32 + 32) + 32 + 17 * 32 + 2 * 32 + (32 * 10 + 10)
# Patches, then the blocks' projections, attention and MLP, then the head.
MACS = 16 * 48 * 32 + 2 * (17 * (4 * 32**2 + 2 * 32 * 64) + 2 * 17**2 * 32) + 320


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@functools.cache
def document(path):
    status, out = plan(f"--config={path}", "--json", "--mfu=0.5")
    assert status == 0
    return json.loads(out)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "tiny.py"
    path.write_text(CONFIG)
    return document(path)


def test_size_cost_and_length_are_those_of_the_run(tiny):
    assert tiny["params"] == PARAMS
    assert tiny["flops_per_image"] == 6 * MACS
    assert tiny["steps"] == np.ceil(2 * 50_000 / 64)
    assert tiny["images"] == tiny["steps"] * 64
    assert tiny["flops_per_run"] == tiny["images"] * 6 * MACS
    assert tiny["layout"] == {"engine": "pjit", "data": 8}


def test_memory_of_a_replicated_state(tiny):
    memory = tiny["bytes_per_device"]
    assert memory["params"] == 4 * PARAMS
    counters = 5 * 4  # steps, skipped steps, those of Adam and of the schedule
    assert 8 * PARAMS <= memory["optimizer"] <= 8 * PARAMS + counters
    assert memory["batch"] == pytest.approx(8 * (16 * 16 * 3 + 4), rel=0.2)
    # At least what eight images leave behind in each block: queries, keys, values, MLP.
    assert memory["temporaries"] > 2 * 8 * 17 * (3 * 32 + 64) * 4
    assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    assert tiny["fits"] and memory["total"] < tiny["memory_per_device"]


def test_collectives_are_beside_what_the_layout_needs(tiny):
    assert tiny["collective_bytes_minimum"] == 2 * 4 * PARAMS * 7 // 8
    extra = tiny["collective_bytes_per_step"] - tiny["collective_bytes_minimum"]
    assert 0 <= extra <= 100
    assert tiny["collectives"].keys() == {"all-reduce"}
    assert tiny["compile_seconds"] > 0


def test_devices_without_a_known_peak_have_no_days(tiny):
    assert tiny["days"] is None and tiny["tpu_core_days"] is None and tiny["roofline"] is None
    assert tiny["mfu"] == 0.5


def test_the_table_for_readers_says_the_same(tiny):
    text = "\n".join(lines(tiny))
    assert f"{PARAMS:,}" in text and "8 cpu: engine=pjit data=8" in text and ": fits" in text
    assert tiny["attention_saved"] is None and "attention " not in text
    text = "\n".join(lines(dict(tiny, attention_saved=0.125)))
    assert "attention      12% fewer FLOPs in the blocks than with full attention" in text
    text = "\n".join(lines(dict(tiny, attention_saved=-0.1)))
    assert "attention      model.attention_kind saves no FLOPs against full attention" in text


@pytest.mark.slow
def test_a_plan_of_local_attention_counts_the_keys_that_are_seen(tmp_path):
    """A grid of 4x4: 3x3 windows have 10 pairs of rows, so 100 of patches, and the class token."""
    path = tmp_path / "window.py"
    kind = CONFIG.replace("num_heads=2", 'num_heads=2, attention_kind="window(3)"')
    path.write_text(kind)
    found = document(path)
    fewer = 2 * 2 * (17**2 - (100 + 33)) * 32
    assert found["flops_per_image"] == 6 * (MACS - fewer)
    blocks = MACS - 16 * 48 * 32 - 320
    assert found["attention_saved"] == pytest.approx(fewer / blocks)
    assert found["params"] == PARAMS and found["bytes_per_device"]["temporaries"] > 0


def test_wrong_input_is_one_line(config_file, capsys):
    for args, message in [
        (["--mfu=0"], "0 is out of range; give a number above 0, at most 1"),
        (["--config.data.source=folder:not_here"], "set config.model.num_classes"),
        (["--config.batch_size=63"], "the nearest that does is 64"),
        (["--topology=v9:2x2"], "unknown topology 'v9'"),
        (["--topology=h100:0x8"], "write h100:NODESxGPUS"),
        (["--topology=h100:2x8", "--slices=2"], "of GPUs --topology=h100:NODESxGPUS gives the"),
        (["--write=x.py"], "--write=x.py needs --search"),
        (["--search", "--fit-batch"], "give one of them"),
        (["--batch=63"], "the nearest that does is 64"),
    ]:
        status, out = plan(f"--config={config_file}", *args)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert (status, out) == (2, "")
        assert error.startswith("vit_jax: ") and message in error


@pytest.mark.slow
def test_out_of_memory_is_an_answer_with_suggestions(config_file, monkeypatch):
    args = [f"--config={config_file}", "--config.batch_size=512", "--json"]
    needed = json.loads(plan(*args)[1])["bytes_per_device"]["total"]
    monkeypatch.setattr(compiling, "memory_of", lambda device: int(0.9 * needed))
    monkeypatch.setattr(search, "MAX_ACCUMULATE", 2)
    monkeypatch.setattr(search, "MAX_LAYOUTS", 1)
    status, out = plan(*args)
    result = json.loads(out)
    assert status == 0 and not result["fits"]
    tried = {" ".join(attempt["flags"]): attempt for attempt in result["suggestions"]}
    assert any("remat" in flags and attempt["fits"] for flags, attempt in tried.items())
    assert all(a["fits"] == (a["total_bytes"] <= int(0.9 * needed)) for a in tried.values())
    text = plan(*args[:-1], "--fit-batch")[1]
    assert "does not fit\ncollectives" in text and "\nsuggestion     --config.model.remat" in text
    assert "\nlargest batch  4" in text  # 400 and more of 512


def make_run(name, devices, steps, batch_size):
    config = SimpleNamespace(batch_size=batch_size)
    engine = SimpleNamespace(mesh=SimpleNamespace(devices=np.zeros(devices)))
    return SimpleNamespace(model_name=name, config=config, engine=engine, total_steps=steps)


@pytest.mark.parametrize(
    "name, exaflops, core_days, mfu",
    # Cost in table 6, core-days in table 2; a core of TPU v3 peaks at 61.5 TFLOP/s.
    [("ViT-H/14", 4262, 2500, 0.321), ("ViT-L/16", 1567, 680, 0.434)],
)
def test_the_papers_core_days_stand_beside_ours(name, exaflops, core_days, mfu):
    steps, images = 1_035_645, 14 * 303_000_000
    per_image = exaflops * 1e18 / images
    run = make_run(name, 128, steps, 4096)
    found = run_time(run, per_image, images, hardware.find_chip("TPU v3"), mfu)
    assert found["paper_tpu_v3_core_days"] == core_days
    assert found["paper_mfu"] == pytest.approx(mfu, abs=1e-3)
    # At the paper's own MFU our core-days are the paper's.
    assert found["tpu_core_days"] == pytest.approx(core_days, rel=0.005)
    assert found["tpu_v3_core_days"] == pytest.approx(core_days, rel=0.005)
    assert found["days"] == pytest.approx(core_days / 128, rel=0.005)
    assert found["step_seconds"] == pytest.approx(found["days"] * 86_400 / steps)


def test_days_on_another_chip():
    run = make_run("ViT-B/16", 256, 1000, 4096)
    found = run_time(run, 1e11, 4096 * 1000, hardware.find_chip("TPU v5 lite"), 0.4)
    seconds = 1e11 * 4096 * 1000 / (256 * 197e12 * 0.4)
    assert found["days"] == pytest.approx(seconds / 86_400)
    assert found["tpu_core_days"] == pytest.approx(256 * seconds / 86_400)
    assert found["paper_tpu_v3_core_days"] is None


@pytest.mark.parametrize("mix", ["mixup.alpha=0.2", "mixup.cutmix_alpha=1.0"])
def test_draws_by_rejection_do_not_hide_what_is_sent(mix, config_file):
    """Their loops have no length in the compiled text."""
    status, out = plan(f"--config={config_file}", f"--config.{mix}", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["collective_bytes_per_step"] >= found["collective_bytes_minimum"] > 0


def test_no_step_is_faster_than_the_roofline():
    """L/16 at 1,024 pixels: 157 ms at an MFU of 40%, 280 ms by the memory's speed."""
    chip = hardware.find_chip("TPU v5 lite")
    devices = np.full(4, SimpleNamespace(device_kind=chip.name))
    run = SimpleNamespace(
        engine=SimpleNamespace(mesh=SimpleNamespace(devices=devices)),
        config=SimpleNamespace(batch_size=64),
        total_steps=86_400,
        model_name="ViT-L/16",
    )
    flops = int(0.157 * 0.4 * 4 * chip.bf16_flops / 64)
    by_mfu = run_time(run, flops, 64 * 86_400, chip, 0.4, fastest=0.1)
    assert by_mfu["step_seconds"] == pytest.approx(0.157, rel=1e-3)
    assert not by_mfu["bound_by_roofline"]
    bound = run_time(run, flops, 64 * 86_400, chip, 0.4, fastest=0.28)
    assert bound["step_seconds"] == 0.28 and bound["bound_by_roofline"]
    assert bound["days"] == pytest.approx(0.28)
    assert bound["tpu_core_days"] == pytest.approx(0.28 * 4 * chip.cores)

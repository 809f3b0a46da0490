"""What `vit_jax benchmark` measures, and what it says to wrong input."""

import json
import os
import re
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vit_jax.cli.main import main
from vit_jax.models.forms.platform import training_form, unrolled, unrolled_in_training
from vit_jax.parallel import hardware
from vit_jax.parallel.axes import AXES
from vit_jax.parallel.mesh import create_mesh
from vit_jax.plan.analytic.devices import describe_devices
from vit_jax.speed import benchmark as module
from vit_jax.speed.benchmark import OutOfMemory, benchmark, create_case, run_config, sweep

TINY = dict(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=8)


def tiny(batch_size=16):
    config = run_config("ViT-Ti/16", batch_size=batch_size, image_size=16)
    config.model.update(TINY)
    return config


@pytest.fixture(scope="module")
def case():
    return create_case(tiny(), "train")


def test_it_is_the_training_step(case):
    before = jax.tree.map(np.asarray, case.carry.params)
    metrics = list(case.outputs(3))
    assert int(case.carry.step) == 3
    assert [float(m["learning_rate"]) for m in metrics] == pytest.approx([0, 1e-7, 2e-7])
    assert all(float(m["grad_norm"]) > 0 for m in metrics)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, case.carry.params)
    assert moved["head"]["kernel"]


def test_the_document(case, monkeypatch):
    monkeypatch.setattr(hardware, "peak_flops", lambda device: 1e9)
    document = module.describe(case, [0.2, 0.1, 0.1, 0.4, 0.1])
    assert document["images_per_second"] == pytest.approx(160)  # of the median
    assert document["images_per_second_per_device"] == pytest.approx(20)
    assert document["step_ms"] == pytest.approx(100)
    assert document["step_ms_spread"] == pytest.approx([100, 320])
    # Table 6's way of counting, by hand: 5 tokens, 4 of them patches of 8 * 8 * 3 values.
    block = 5 * 16 * (3 * 16 + 16 + 32 + 32) + 2 * 5 * 5 * 16
    macs = 4 * 192 * 16 + block + 16 * 1000
    assert document["flops_per_image"] == 3 * 2 * macs
    assert document["mfu"] == pytest.approx(160 * 6 * macs / 8e9)
    # Parameters, two moments, and the images at least.
    assert document["peak_bytes"] >= 3 * 4 * document["params"] + 2 * 16 * 16 * 3


def test_steps_are_timed_one_by_one(case):
    start = time.perf_counter()
    seconds = module.time_steps(case, 4)
    assert len(seconds) == 4 and min(seconds) > 0
    assert sum(seconds) < time.perf_counter() - start


def test_the_best_batch(monkeypatch):
    speeds = {8: 100.0, 16: 150.0, 32: 140.0, 64: 500.0}

    def measured(config, mode, *, steps):
        size = config.batch_size
        return dict(batch_size=size, images_per_second=speeds[size], step_ms=1.0)

    monkeypatch.setattr(module, "benchmark", measured)
    best = sweep(tiny(8), "train")
    assert best["batch_size"] == 16
    assert [tried["batch_size"] for tried in best["sweep"]] == [8, 16, 32]


def test_a_batch_that_does_not_fit_ends_the_sweep(monkeypatch):
    def measured(config, mode, *, steps):
        if config.batch_size > 16:
            raise OutOfMemory("too much")
        return dict(batch_size=config.batch_size, images_per_second=config.batch_size, step_ms=1.0)

    monkeypatch.setattr(module, "benchmark", measured)
    best = sweep(tiny(8), "train")
    assert best["batch_size"] == 16
    assert best["sweep"][-1] == dict(batch_size=32, images_per_second=None, step_ms=None)
    with pytest.raises(OutOfMemory):
        sweep(tiny(64), "train")


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(module, "memory_of", lambda device: 1000)
    with pytest.raises(OutOfMemory, match="ViT-Ti/16 at batch 16 takes .* bytes of 1,000"):
        benchmark(tiny(), "infer")


def test_what_devices_say_when_memory_ends(monkeypatch):
    def fail(text):
        def create(*_):
            raise jax.errors.JaxRuntimeError(text)

        monkeypatch.setattr(module, "_create_case", create)

    fail("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte.")
    with pytest.raises(OutOfMemory, match="does not fit: RESOURCE_EXHAUSTED"):
        create_case(tiny(), "train")
    fail("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        create_case(tiny(), "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=ViT-S/16", "--batch=12"], "12 does not divide over 8 batch shards.*is 8"),
        (["--model=ViT-Z/16"], "unknown model"),
        (["--model=ViT-S/16", "--dtype=float23"], "'float23' .did you mean 'float32'"),
        (["--model=ViT-S/16", "--mode=trian"], "'trian' .did you mean 'train'"),
        (["--model=ViT-S/16", "--steps=0"], "steps 0: give at least 1"),
        (["--model=ViT-S/16", "--batch=0"], "batch size 0"),
        (["--model=ViT-S/16", "--image-size=100"], "100 is not divisible by the patch size 16"),
        (["--model=ViT-S/16", "--profile={file}"], "--profile=.*exists"),
        (["--model=ViT-S/16", "--profile={file}/x"], "--profile=.*ot a directory"),
        (["--mode=train"], "--model"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    arguments = [word.format(file=tmp_path / "file") for word in arguments]
    assert main(["benchmark", *arguments]) == 2
    out, err = capfd.readouterr()
    assert not out and len(err.splitlines()) == 1
    assert re.search(message, err), err


def test_the_command_prints_json_and_needs_no_tensorflow():
    code = (
        "import sys; from vit_jax.cli.main import main; "
        "status = main(sys.argv[1:]); assert 'tensorflow' not in sys.modules; sys.exit(status)"
    )
    arguments = ["benchmark", "--model=ViT-Ti/16", "--mode=infer", "--image-size=32", "--batch=8",
                 "--steps=2", "--json"]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["mode"] == "infer" and document["batch_size"] == 8
    assert document["devices"] == 8 and document["dtype"] == "float32"
    assert document["mfu"] is None  # no data sheet has the peak of this processor
    assert document["compile_seconds"] > 0


@pytest.mark.parametrize("mode, same_as", [("train", -1), ("infer", 1)])
def test_the_default_is_the_fastest_form_of_the_loop_over_blocks(mode, same_as):
    """All blocks unrolled in training on a CPU, a loop in inference (docs/performance.md)."""

    def loops(**options):
        config = tiny()
        config.model.update(depth=3, **options)
        return create_case(config, mode).compiled.as_text().count(" while(")

    assert loops() == loops(unroll=same_as) != loops(unroll=1 if same_as == -1 else -1)


def test_deep_models_keep_their_loop():
    assert unrolled(0, 12) == 1
    with training_form():
        assert [unrolled(0, depth) for depth in (1, 12, 13)] == [1, 12, 1]
        assert unrolled(0, 12, remat="full") == 1  # to save memory
        assert [unrolled(option, 24) for option in (-1, 1, 5)] == [24, 1, 5]


def test_on_tpus_models_whose_parameters_are_sharded_have_no_loop():
    """Their gathered weights serve the backward pass too (docs/performance.md)."""

    def blocks(depth=24, **options):
        given = dict(platform="tpu", remat="names", fsdp=16) | options
        return unrolled_in_training(0, depth, **given)

    assert [blocks(), blocks(fsdp=1), blocks(depth=32)] == [24, 1, 1]
    assert [blocks(remat=policy) for policy in ("none", "full", "dots_no_batch")] == [1, 1, 1]
    assert [blocks(platform=platform, depth=12) for platform in ("cpu", "gpu")] == [1, 1]
    assert blocks(platform="cpu", depth=12, remat="none") == 12
    sizes = ConfigDict(dict.fromkeys(AXES, 1) | dict(fsdp=4))
    mesh = create_mesh(sizes, describe_devices("v5e:2x2"))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), training_form():
        assert [unrolled(0, 24, remat="names"), unrolled(0, 25, remat="names")] == [24, 1]

"""Progressive resizing: each size is a plain run of that size, and a resume crosses boundaries."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from jax import monitoring

from vit_jax import config as configs
from vit_jax import data
from vit_jax.checkpoint.stored import read_params
from vit_jax.errors import InputError
from vit_jax.parallel import hardware
from vit_jax.parallel.engines import WithFrozen
from vit_jax.train import loop
from vit_jax.train.batches import TrainingBatches, open_training_data
from vit_jax.train.progressive.options import first_steps, parse_sizes
from vit_jax.train.progressive.stages import Stage
from vit_jax.train.progressive.steps import StagedSteps
from vit_jax.train.run import prepare

STEPS = 4


def tiny_config(sizes="8@0.5, 16", **options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    config.data.pp = "resize(18)|random_crop(16)|flip_lr|value_range(-1, 1)"
    config.progressive.sizes = sizes
    config.batch_size = 16
    config.total.steps = STEPS
    config.optimizer.learning_rate = 0.01
    config.log.update(every=1, tensorboard=False)
    config.update_from_flattened_dict(options)
    return config


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in found}


def trained(run, batches, state, count):
    """Losses of `count` steps of a prepared run without sizes, and the last state."""
    found = []
    for _ in range(count):
        state, metrics = run.train_step(state, next(batches))
        found.append(float(metrics["loss"]))
    return found, state


def plain(size, **options):
    """A run at one constant size, with its batches from a step on."""
    config = tiny_config("", **options)
    scale = {8: 9, 12: 14, 16: 18}[size]
    config.data.pp = config.data.pp.replace("18", str(scale)).replace("16", str(size))
    source, pp, dataset = open_training_data(config)
    run = prepare(config, dataset)
    return run, functools.partial(TrainingBatches, run, source, pp)


@functools.cache
def compiled_steps():
    """A list that gets the name of each program that XLA compiles from now on."""
    found = []

    def note(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            found.append(str(about.get("fun_name")))

    monitoring.register_event_duration_secs_listener(note)
    return found


FIXED = {"model.posemb": "sincos2d", "model.rotary": "centred"}  # no parameters of any size


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run over two sizes, with the checkpoint after each step."""
    workdir = tmp_path_factory.mktemp("whole")
    kept = FIXED | {"checkpoint.every.steps": 1, "checkpoint.keep": 9}
    before = len(compiled_steps())
    loop.train(tiny_config(**kept), str(workdir))
    return workdir, kept, compiled_steps()[before:]


def test_each_size_continues_as_a_plain_run_of_that_size(whole):
    """The state that one size leaves begins the plain run of the next one."""
    found = lines(whole[0])
    expected, state = [], None
    for size, first in ((8, 0), (16, 2)):
        run, open_batches = plain(size, **FIXED)
        batches = open_batches(start_step=first)
        state = run.engine.init(run.create) if state is None else state
        losses, state = trained(run, batches, state, 2)
        batches.close()
        expected += losses
    assert [found[step]["train/loss"] for step in range(1, STEPS + 1)] == expected
    assert [found[step]["train/image_size"] for step in range(1, STEPS + 1)] == [8, 8, 16, 16]


def test_every_size_is_compiled_once(whole):
    assert whole[2].count("jit(step)") == 2


def test_pmap_trains_the_same_and_counts_the_flops_of_each_size(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "peak_flops", lambda device: 1e9)
    before = len(compiled_steps())
    loop.train(tiny_config(**FIXED | {"parallel.engine": "pmap"}), str(tmp_path))
    assert compiled_steps()[before:].count("jit(_fun)") == 2  # pmap's name of any program
    found = lines(tmp_path)
    for step in range(1, STEPS + 1):
        expected = lines(whole[0])[step]["train/loss"]
        np.testing.assert_allclose(found[step]["train/loss"], expected, rtol=1e-4)
        share = found[step]["train/images_per_second"] * found[step]["train/flops_per_image"] / 8e9
        np.testing.assert_allclose(found[step]["train/mfu"], share, rtol=1e-6)
    run, _ = plain(8, **FIXED)
    assert found[1]["train/flops_per_image"] == 6 * run.task.macs(run.model_config)
    assert found[3]["train/flops_per_image"] > 2 * found[1]["train/flops_per_image"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_resume_before_or_at_a_boundary_gives_the_same_bits(step, whole, tmp_path):
    workdir, kept, _ = whole
    shutil.copytree(workdir, tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    (tmp_path / "run/summary.json").unlink()
    loop.train(tiny_config(**kept), str(tmp_path / "run"))
    states = [read_params(place / f"checkpoints/{STEPS}") for place in (workdir, tmp_path / "run")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert lines(workdir)[STEPS]["train/loss"] == lines(tmp_path / "run")[STEPS]["train/loss"]


def test_preprocessing_scales_as_a_whole():
    def at(text, size):
        return str(data.parse(text).at_size((size, size), "where"))

    assert at("inception_crop(224)|flip_lr", 128) == "decode|inception_crop(128)|flip_lr"
    assert at("resize(64)|random_crop(56)", 28) == "decode|resize(32)|random_crop(28)"
    padded = at("resize(32)|random_crop(32, padding=4)|value_range(-1, 1)", 24)
    assert padded == "decode|resize(24)|random_crop(24, padding=3)|value_range(-1, 1)"
    assert at("crop_border(2)|resize_small(256)|central_crop(224)", 112) == (
        "decode|crop_border(2)|resize_small(128)|central_crop(112)"
    )
    with pytest.raises(InputError, match="cannot give images of 16x16 pixels; begin it with"):
        at("random_crop(32, padding=4)", 16)


def test_shares_of_the_run_become_steps():
    def steps(sizes, total):
        return first_steps(parse_sizes(tiny_config(sizes).progressive), total)

    assert steps("8@0.4,12@.6,16", 5) == [((8, 8), 0), ((12, 12), 2), ((16, 16), 3)]
    assert steps("8x4@0.5, 8x12", 10) == [((8, 4), 0), ((8, 12), 5)]
    assert steps("8@0.01, 12@0.02, 16", 5) == [((16, 16), 0)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"progressive.sizes": "8@0.5"}, "the last without a share"),
        ({"progressive.sizes": "16"}, "one size alone"),
        ({"progressive.sizes": "8, 16"}, "write SIZE@SHARE"),
        ({"progressive.sizes": "12@0.5, 8@0.7, 16"}, "sizes grow, but 8 follows 12"),
        ({"progressive.sizes": "8@0.5, 12@0.4, 16"}, "shares of the run grow"),
        ({"progressive.sizes": "0@0.5, 16"}, "sizes grow"),
        ({"progressive.sizes": "8@0.5, 12"}, "ends with 12, but config.data.pp yields .* of 16"),
        ({"progressive.sizes": "9@0.5, 16"}, "9: image size 9 is not divisible by"),
        ({"progressive.sizes": "", "progressive.resample": "bicubic"}, "needs config.progressive"),
        ({"progressive.resample": "nearest"}, "config.progressive.resample"),
        ({"data.resident": True}, "set config.data.resident to False"),
        ({"data.pp": "naflex(16, 4)|value_range(-1, 1)"}, "does not fix the size of images"),
        ({"task": "masked", "model.head": "gap", "progressive.sizes": "4@0.5, 16"}, "4: masked"),
    ],
)  # fmt: skip
def test_wrong_sizes_are_refused_before_the_workdir_is_claimed(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        loop.train(tiny_config(**options), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["masked", "resnet"])
def test_masked_patches_and_a_resnet_grow_too(kind):
    config = tiny_config()
    if kind == "masked":
        config.task = kind
    else:
        config.model.update(name="BiT-R50x1", width=None, depth=None, mlp_dim=None, num_heads=None)
        config.model.resnet_stages = (1,)
    run = prepare(config, open_training_data(config)[2])
    for stage, size in zip(run.stages, (8, 16), strict=True):
        shapes = dict(
            image=jax.ShapeDtypeStruct((16, size, size, 3), np.uint8),
            label=jax.ShapeDtypeStruct((16,), np.int32),
        )
        batch = {name: shapes[name] for name in run.task.batch_fields}
        step = stage.train_step.lower(run.abstract, run.engine.abstract_batch(batch))
        assert step.out_info[0].step.shape == ()


def test_a_step_with_frozen_arrays_is_compiled_ahead():
    """As that of a student, whose teacher is an argument of each step."""

    def step(state, batch, frozen):
        return state + frozen * batch["image"].sum(), batch["image"].size

    stages = [
        Stage(first, (side, side), None, WithFrozen(jax.jit(step), jax.numpy.float32(2)))
        for first, side in ((0, 1), (1, 2))
    ]
    steps = StagedSteps(stages, jax.ShapeDtypeStruct((), np.float32))
    state = jax.numpy.float32(0)
    for number, side in enumerate((1, 2, 2)):
        state, size = steps(number, state, dict(image=jax.numpy.ones((1, side, side, 3))))
        assert size == 3 * side**2
    assert state == 2 * 3 * (1 + 4 + 4)
    steps.close()

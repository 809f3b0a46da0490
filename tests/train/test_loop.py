"""Whole runs on real digits: resume, fine-tuning, bad numbers."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits

from vit_jax import config as configs
from vit_jax.checkpoint.load import read_weights
from vit_jax.checkpoint.local import LocalCopies
from vit_jax.checkpoint.manager import Checkpoints, read_meta
from vit_jax.data import order
from vit_jax.errors import InputError, NonFiniteError, Preempted
from vit_jax.parallel.rules import MIN_SHARD_ELEMENTS
from vit_jax.train import loop, start
from vit_jax.train.batches import open_training_data
from vit_jax.train.health import debug
from vit_jax.train.health.preemption import PreemptionWatch
from vit_jax.train.run import prepare
from vit_jax.train.start import first_state, starting_weights

STEPS = 9
NO_COPIES = LocalCopies(".", configs.default().checkpoint, None)


def tiny_config(**options):
    """A run of a few seconds with dropout, mixup, EMA and augmentation."""
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2, dropout=0.1)
    config.data.pp = "resize(8)|random_crop(8, padding=1)|value_range(-1, 1)"
    config.data.split = "train[:80%]"
    config.batch_size = 16
    config.total.steps = STEPS
    config.optimizer.ema_decay = 0.9
    config.optimizer.learning_rate = 0.01
    config.log.update(every=2, tensorboard=False)
    config.checkpoint.every.steps = 4
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]", batch_size=64, use_ema=True)
    config.update_from_flattened_dict(options)
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def numbers(workdir):
    """What a run computed, without how long it took."""
    timing = ("train/images_per_second", "train/data_wait", "train/mfu")
    return [{k: v for k, v in line.items() if k not in timing} for line in lines(workdir)]


def preempt_after(monkeypatch, step):
    monkeypatch.setattr(PreemptionWatch, "reached", lambda self, now: now == step)


def assert_equal_params(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    loop.train(tiny_config(), str(workdir))
    return workdir


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_interrupted_at_any_step_ends_bit_identical(
    first, undisturbed, tmp_path, monkeypatch
):
    """At the odd steps one after another, and at the even ones."""
    for at in range(first, STEPS, 2):
        with monkeypatch.context() as patch:
            preempt_after(patch, at)
            with pytest.raises(Preempted, match=f"step {at} of {STEPS}"):
                loop.train(tiny_config(), str(tmp_path))
    loop.train(tiny_config(), str(tmp_path))
    assert_equal_params(read_weights(tmp_path).params, read_weights(undisturbed).params)
    assert_equal_params(
        read_weights(tmp_path, use_ema=True).params, read_weights(undisturbed, use_ema=True).params
    )
    assert numbers(tmp_path) == numbers(undisturbed)


def test_workdir_holds_what_it_should(undisturbed):
    assert [line["step"] for line in lines(undisturbed)] == [2, 4, 6, 8, 9]
    assert lines(undisturbed)[-1]["eval/test/examples"] == 359  # a fifth of 1,797, rounded
    assert {"config.json", "metrics.jsonl", "summary.json"} <= {
        path.name for path in undisturbed.iterdir()
    }
    # keep=2: the last two of steps 4, 8 and 9.
    steps = sorted(int(path.name) for path in (undisturbed / "checkpoints").iterdir())
    assert steps == [8, 9]
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert summary["steps"] == STEPS and summary["metrics"]["eval/test/examples"] == 359


def test_another_config_is_refused_and_overwrites_nothing(undisturbed):
    before = (undisturbed / "config.json").read_text()
    with pytest.raises(InputError, match=r"optimizer\.learning_rate \(0\.01 there\)"):
        loop.train(tiny_config(**{"optimizer.learning_rate": 0.5}), str(undisturbed))
    assert (undisturbed / "config.json").read_text() == before


def test_data_that_changed_since_are_refused(tmp_path, monkeypatch):
    """The split of a resumed run names other images now."""
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    archive = tmp_path / "digits.npz"
    np.savez(archive, train_images=images, train_labels=digits.target)
    changes = {"data.source": f"npz:{archive}", "total.steps": 3}
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        preempt_after(patch, 2)
        loop.train(tiny_config(**changes), str(tmp_path / "run"))
    np.savez(archive, train_images=images[:-7], train_labels=digits.target[:-7])
    with pytest.raises(InputError, match=r"examples, had 1438 since step 2 of the run"):
        loop.train(tiny_config(**changes), str(tmp_path / "run"))


def test_batches_on_the_device_give_the_same_run(undisturbed, tmp_path):
    loop.train(tiny_config(**{"data.resident": True}), str(tmp_path))
    assert_equal_params(read_weights(tmp_path).params, read_weights(undisturbed).params)


def test_fine_tuning_resamples_positions_and_starts_a_new_head(undisturbed, tmp_path):
    config = tiny_config(**{"init_from": str(undisturbed), "data.pp": "resize((16, 12))"})
    source, _, dataset = open_training_data(config)
    start = starting_weights(config, tmp_path)
    run = prepare(config, dataset, start=start.model)
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    params = first_state(run, checkpoints, NO_COPIES, source)[1].params
    old = read_weights(undisturbed).params
    np.testing.assert_array_equal(params["head"]["kernel"], 0)
    np.testing.assert_array_equal(params["blocks"]["mlp"]["fc1"]["kernel"],
                                  old["blocks"]["mlp"]["fc1"]["kernel"])  # fmt: skip
    before, after = (np.asarray(p["posemb"]["embedding"])[0] for p in (old, params))
    np.testing.assert_array_equal(after[0], before[0])  # the class token's
    zoomed = scipy.ndimage.zoom(before[1:].reshape(2, 2, -1), (2, 1.5, 1), order=1)
    np.testing.assert_allclose(after[1:].reshape(4, 3, -1), zoomed, atol=1e-6)


def test_model_options_left_alone_come_from_the_weights(tmp_path, monkeypatch):
    """Also where a run goes on and the weights it began with are gone."""
    own = {"model.gelu": "erf", "model.registers": 2, "model.layer_scale": 0.1}
    loop.train(tiny_config(**own, **{"total.steps": 1}), str(tmp_path / "first"))
    config = tiny_config(**{"init_from": str(tmp_path / "first"), "total.steps": 3})
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        preempt_after(patch, 2)
        loop.train(config, str(tmp_path / "second"))
    shutil.rmtree(tmp_path / "first")
    loop.train(config, str(tmp_path / "second"))
    model = read_weights(tmp_path / "second").config
    assert (model.gelu, model.registers, model.layer_scale) == ("erf", 2, 0.1)


def test_a_model_option_that_contradicts_the_weights_is_refused(undisturbed, tmp_path):
    config = tiny_config(**{"init_from": str(undisturbed), "model.gelu": "erf"})
    with pytest.raises(InputError, match="gelu is 'tanh' in the weights, 'erf' in the model"):
        loop.train(config, str(tmp_path / "new"))
    assert not (tmp_path / "new" / "config.json").exists()


def test_init_from_another_model_names_what_differs(undisturbed, tmp_path):
    config = tiny_config(**{"init_from": str(undisturbed), "model.mlp_dim": 32})
    with pytest.raises(InputError, match=r"mlp_dim is 64 in the weights, 32 in the model; "):
        loop.train(config, str(tmp_path / "new"))


def test_the_best_is_a_state_that_was_evaluated(tmp_path):
    config = tiny_config(**{"checkpoint.every.steps": 4, "checkpoint.best": "eval/test/top1"})
    config.checkpoint.keep = 1
    config.eval_every.steps = 3
    loop.train(config, str(tmp_path))
    top1 = {line["step"]: line.get("eval/test/top1") for line in lines(tmp_path)}
    evaluated = {step: top1[step] for step in (3, 6, 9)}
    best = max(evaluated, key=lambda step: (evaluated[step], step))
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {best, 9}
    assert read_meta(tmp_path / "checkpoints" / "9")["metrics"]["eval/test/top1"] == top1[9]
    weights = read_weights(tmp_path)
    assert_equal_params(weights.params, read_weights(tmp_path / "checkpoints" / str(best)).params)
    assert f"the best by eval/test/top1 ({top1[best]:.4g})" in weights.report[0]
    assert ("; the newest is" in weights.report[0]) == (best != 9)


def test_a_refused_start_leaves_the_workdir_free(undisturbed, tmp_path):
    for wrong in ("/nowhere", str(undisturbed)):  # no such thing; another head's size
        config = tiny_config(init_from=wrong, init_skip=())
        if wrong != "/nowhere":
            config.model.num_classes = 12
        with pytest.raises(InputError):
            loop.train(config, str(tmp_path))
    loop.train(tiny_config(**{"total.steps": 1}), str(tmp_path))


@pytest.mark.parametrize("pattern", ["head/*(", 3])
def test_a_pattern_that_is_none_is_refused(pattern, undisturbed, tmp_path):
    config = tiny_config(init_from=str(undisturbed), init_skip=(pattern,))
    with pytest.raises(InputError, match="config.init_skip"):
        loop.train(config, str(tmp_path))


def test_weights_that_are_not_finite_are_refused_by_name(undisturbed, tmp_path, monkeypatch):
    info = read_weights(undisturbed)
    params = info.params
    params["blocks"]["mlp"]["fc1"]["bias"] = np.full((2, 64), np.nan, np.float32)
    monkeypatch.setattr(start, "read_weights", lambda *_, **__: info)
    config = tiny_config(init_from=str(undisturbed))
    with pytest.raises(InputError, match="not finite in blocks/mlp/fc1/bias; take another"):
        loop.train(config, str(tmp_path))


@pytest.mark.parametrize(
    "layout", [{"parallel.data": 1, "parallel.fsdp": 8}, {"parallel.engine": "pmap"}]
)
def test_no_device_ever_holds_a_full_copy_of_what_a_run_begins_with(layout, tmp_path, monkeypatch):
    """Every array of the checkpoint that is large enough is read in parts."""
    wide = {"model.width": 128, "model.mlp_dim": 256, "total.steps": 1}
    loop.train(tiny_config(**wide), str(tmp_path / "first"))
    read_arrays = []

    def read_and_note(*args, **options):
        weights = read_weights(*args, **options)
        read_arrays.extend(jax.tree.leaves(weights.params))
        return weights

    monkeypatch.setattr(start, "read_weights", read_and_note)
    config = tiny_config(init_from=str(tmp_path / "first"), **wide, **layout)
    source, _, dataset = open_training_data(config)
    run = prepare(config, dataset)
    checkpoints = Checkpoints(tmp_path / "second", config.checkpoint)
    state = first_state(run, checkpoints, NO_COPIES, source)[1]
    large = [leaf for leaf in read_arrays if leaf.size >= MIN_SHARD_ELEMENTS]
    assert len(large) == 4  # qkv, out, fc1, fc2
    parts = 8 if "parallel.fsdp" in layout else 1
    assert {leaf.size // leaf.addressable_shards[0].data.size for leaf in large} == {parts}
    params, averages = state.params["blocks"], state.ema["blocks"]
    wanted = read_weights(tmp_path / "first").params["blocks"]
    assert_equal_params(params, wanted)
    assert_equal_params(averages, wanted)
    # The step gives up the memory of both.
    buffers = [leaf.unsafe_buffer_pointer() for leaf in _first_shards(state)]
    assert len(buffers) == len(set(buffers))


def _first_shards(state):
    return [leaf.addressable_shards[0].data for leaf in jax.tree.leaves((state.params, state.ema))]


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
    """The only update ruins the parameters, so that the evaluation is not finite."""
    ruin = {"optimizer.learning_rate": 3e37, "total.steps": 1, "optimizer.ema_decay": 0.0}
    config = tiny_config(**ruin)
    config.evals.test.use_ema = False
    summary = loop.train(config, str(tmp_path))
    text = (tmp_path / "summary.json").read_text()
    assert summary["metrics"]["eval/test/loss"] is None and "NaN" not in text
    assert json.loads(text)["metrics"]["eval/test/loss"] is None


def test_non_finite_steps_are_skipped_then_end_the_run_with_a_report(tmp_path):
    """The first update ruins the parameters; no checkpoint is made of what follows."""
    ruin = {"optimizer.learning_rate": 1e30, "max_skipped_steps": 3, "checkpoint.every.steps": 1}
    with pytest.raises(NonFiniteError, match="3 steps in a row, 2 to 4, were not finite") as raised:
        loop.train(tiny_config(**ruin), str(tmp_path))
    assert "gradients not finite of blocks/attention/out/bias" in str(raised.value)
    assert [int(path.name) for path in (tmp_path / "checkpoints").iterdir()] == [1]
    assert [line["train/skipped"] for line in lines(tmp_path)] == [1, 3]  # of steps 2 and 4
    report = json.loads((tmp_path / "non_finite.json").read_text())["steps"]
    assert [entry["step"] for entry in report] == [2, 3, 4]
    assert "blocks/mlp/fc1/kernel" in report[0]["parameters"]
    # The loss is huge but finite, and softmax minus target never overflows.
    assert "head/bias" not in report[0]["parameters"]
    for entry in report:
        positions = np.arange(16) + 16 * (entry["step"] - 1)
        index = order.permutation(positions, 0, seed=0, size=1438)
        assert [int(name.split(":")[0]) for name in entry["examples"]] == index.tolist()


def test_a_run_whose_last_step_is_not_finite_has_failed(tmp_path, monkeypatch):
    """Also if it is stopped among the bad steps; the checkpoint from before them stays."""
    ruin = {"optimizer.learning_rate": 1e30, "total.steps": 5, "checkpoint.every.steps": 1}
    config = tiny_config(**ruin, **{"checkpoint.keep": 1})
    saved = tmp_path / "checkpoints"
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        preempt_after(patch, 3)
        loop.train(config, str(tmp_path))
    assert {int(path.name) for path in saved.iterdir()} == {1, 3}
    assert read_meta(saved / "3")["bad_steps"] == 2 and not read_meta(saved / "1")["bad_steps"]
    sound = "The newest sound checkpoint is of step 1"
    with pytest.raises(NonFiniteError, match=f"2 steps in a row, 4 to 5, were not.* {sound}"):
        loop.train(config, str(tmp_path))
    assert {int(path.name) for path in saved.iterdir()} == {1, 3, 5}
    assert read_meta(saved / "5")["bad_steps"] == 4
    with pytest.raises(NonFiniteError, match=f"the last 4 steps of the run were not .* {sound}"):
        loop.train(config, str(tmp_path))
    assert not (tmp_path / "summary.json").exists()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5]


@pytest.fixture
def ill_gelu(monkeypatch):
    """A GELU that gives NaN. JAX keeps traces: none of the real one may stay, nor of this one."""

    def ill(x, **_):
        return jnp.log(x - 100.0)  # the culprit

    with monkeypatch.context() as patch:
        patch.setattr(jax.nn, "gelu", ill)
        jax.clear_caches()
        yield
    jax.clear_caches()


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_debug_names_the_operation_and_its_line(engine, ill_gelu, tmp_path, monkeypatch):
    monkeypatch.setattr(debug, "_PACKAGE", str(Path(__file__).parents[1]))
    config = tiny_config(**{"debug": True, "parallel.engine": engine})
    with pytest.raises(NonFiniteError) as raised:
        loop.train(config, str(tmp_path))
    found = str(raised.value).splitlines()[-1]
    assert found.startswith("log at tests/train/test_loop.py:")
    assert "ill (return jnp.log(x - 100.0)  # the culprit), gives" in found
    assert "NaN" in found and not (tmp_path / "checkpoints" / "1").exists()


def test_durations_in_epochs_and_examples_agree(undisturbed):
    config = tiny_config()
    for unit, value in [("epochs", 2), ("examples", 2 * 1438)]:
        config.total = configs.duration(**{unit: value})
        steps = configs.in_steps(config.total, name="total", batch_size=16, train_size=1438)
        assert steps == 180  # 2876 / 16 = 179.75: the last batch counts


def test_two_units_of_one_duration_are_refused():
    config = tiny_config()
    config.total.epochs = 2.0
    with pytest.raises(InputError, match=r"config\.total sets (epochs and steps|steps and epochs)"):
        configs.in_steps(config.total, name="total", batch_size=16, train_size=1438)

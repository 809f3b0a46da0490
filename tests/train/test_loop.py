"""Whole runs on real digits: resume, fine-tuning, bad numbers."""

import json
import random

import jax
import numpy as np
import pytest
import scipy.ndimage
from sklearn.datasets import load_digits

from vit_jax import config as configs
from vit_jax.checkpoint.load import read
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.errors import InputError, NonFiniteError, Preempted
from vit_jax.train import loop, setup
from vit_jax.train.inputs import open_training_data
from vit_jax.train.preemption import PreemptionWatch

STEPS = 9


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


@pytest.mark.parametrize("attempt", [0, 1])
def test_a_run_interrupted_anywhere_ends_bit_identical(attempt, undisturbed, tmp_path, monkeypatch):
    at = random.SystemRandom().randrange(1, STEPS)
    with monkeypatch.context() as patch:
        preempt_after(patch, at)
        with pytest.raises(Preempted, match=f"step {at} of {STEPS}"):
            loop.train(tiny_config(), str(tmp_path))
    loop.train(tiny_config(), str(tmp_path))
    assert_equal_params(read(tmp_path)[0], read(undisturbed)[0])
    assert_equal_params(read(tmp_path, use_ema=True)[0], read(undisturbed, use_ema=True)[0])
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
    assert_equal_params(read(tmp_path)[0], read(undisturbed)[0])


def test_fine_tuning_resamples_positions_and_starts_a_new_head(undisturbed, tmp_path):
    config = tiny_config(**{"init_from": str(undisturbed), "data.pp": "resize((16, 12))"})
    source, _, dataset = open_training_data(config)
    run = setup.prepare(config, dataset)
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    params = setup.first_state(run, checkpoints, source)[1].params
    old = read(undisturbed)[0]
    np.testing.assert_array_equal(params["head"]["kernel"], 0)
    np.testing.assert_array_equal(params["blocks"]["mlp"]["fc1"]["kernel"],
                                  old["blocks"]["mlp"]["fc1"]["kernel"])  # fmt: skip
    before, after = (np.asarray(p["posemb"]["embedding"])[0] for p in (old, params))
    np.testing.assert_array_equal(after[0], before[0])  # the class token's
    zoomed = scipy.ndimage.zoom(before[1:].reshape(2, 2, -1), (2, 1.5, 1), order=1)
    np.testing.assert_allclose(after[1:].reshape(4, 3, -1), zoomed, atol=1e-6)


def test_init_from_another_model_names_what_differs(undisturbed, tmp_path):
    config = tiny_config(**{"init_from": str(undisturbed), "model.mlp_dim": 32})
    with pytest.raises(InputError, match=r"blocks/mlp/fc1/kernel: checkpoint \(2, 32, 64\), model"):
        loop.train(config, str(tmp_path / "new"))


def test_non_finite_steps_are_skipped_then_end_the_run(tmp_path):
    config = tiny_config(**{"optimizer.learning_rate": 1e30, "max_skipped_steps": 3})
    with pytest.raises(NonFiniteError, match="not finite"):
        loop.train(config, str(tmp_path))


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

"""What changes in the course of a run: mixup's end, and evaluations of two sets of parameters."""

import json

import jax
import numpy as np
import pytest

from vit_jax import InputError
from vit_jax import config as configs
from vit_jax.checkpoint import read_weights
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.evaluate.stored import evaluate_checkpoint
from vit_jax.train import loop
from vit_jax.train.run import Dataset, prepare
from vit_jax.train.state import TrainState

DATASET = Dataset(64, 10, (8, 8), (0.5,) * 3, (0.5,) * 3, class_counts=tuple(range(1, 11)))


def config_of(**options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.data.split = "train[:80%]"
    config.batch_size = 16
    config.total.steps = 4
    config.log.update(every=1, tensorboard=False)
    config.optimizer.eps = 1e-3
    config.update_from_flattened_dict(options)
    return config


def batches(run, count=4):
    """Noise on the devices of a run."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        image = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
        batch = dict(image=image, label=rng.integers(0, 10, 16, np.int32))
        yield run.engine.put_batch(batch, 16)


def losses(**options):
    """Losses of four steps on noise, without reading data."""
    run = prepare(config_of(**options), DATASET)
    state, found = run.engine.init(run.create), []
    for batch in batches(run):
        state, metrics = run.train_step(state, batch)
        found.append(float(metrics["loss"]))
    return np.array(found)


@pytest.mark.slow
def test_images_are_not_mixed_from_a_step_on():
    options = {"optimizer.learning_rate": 1e-2}
    mix = options | {"mixup.cutmix_alpha": 1.0}
    always, never = losses(**mix), losses(**options)
    half = losses(**mix, **{"mixup.off_after.steps": 2})
    np.testing.assert_allclose(half[:2], always[:2], rtol=1e-6)
    assert not np.isclose(half[2:], always[2:], rtol=1e-4).any()
    none = losses(**mix, **{"mixup.off_after.epochs": 0.0})
    np.testing.assert_allclose(none, never, rtol=1e-5)
    assert not np.isclose(never[1:], always[1:], rtol=1e-4).any()
    other = losses(**mix, **{"mixup.off_after.steps": 2, "parallel.engine": "pmap"})
    np.testing.assert_allclose(other, half, rtol=1e-5)


@pytest.mark.slow
def test_weights_of_classes_are_those_of_the_training_data():
    """The first loss of a zero head is log(10) for every class: the mean weight tells them."""
    rng = np.random.default_rng(0)
    rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    labels = rng.integers(0, 10, 16, np.int32)
    counts = np.arange(1, 11)
    expected = np.log(10) * (counts.sum() / (10 * counts))[labels].mean()
    for engine in ("pjit", "pmap"):
        found = losses(**{"loss.class_weights": "inverse", "parallel.engine": engine})
        assert found[0] == pytest.approx(expected, rel=1e-5)


def trained(workdir, **options):
    config = config_of(**options)
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]", batch_size=64, also_ema=True)
    config.optimizer.schedule = "constant"
    config.optimizer.ema_decay = 0.9
    loop.train(config, str(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return lines[-1]


MATRICES = {
    "optimizer.name": "muon",
    "optimizer.layer_decay": 0.7,
    "optimizer.clip_adaptive": 0.05,
    "model.depth": 1,
}
EIGHT_BITS = {
    "optimizer.moment_dtype": "8bit",
    "optimizer.second_moment_dtype": "8bit",
    "model.width": 128,
    "model.mlp_dim": 256,
    "model.depth": 1,
}
FREE = {"optimizer.name": "schedule_free", "optimizer.schedule": "constant"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [MATRICES, EIGHT_BITS, FREE], ids=["muon", "8bit", "free"])
def test_sharded_state_is_restored_exactly(options, tmp_path):
    layout = {f"parallel.{axis}": size for axis, size in dict(data=2, fsdp=4).items()}
    layout["parallel.replicated_tolerance"] = 1.0
    run = prepare(config_of(**options, **layout), DATASET)
    checkpoints = Checkpoints(tmp_path, run.config.checkpoint)
    state = run.engine.init(run.create)
    for number, batch in enumerate(batches(run)):
        state, _ = run.train_step(state, batch)
        if number == 1:
            checkpoints.save(2, run.engine.globalize(state).items(), {}, {})
            checkpoints.wait()
    _, items = checkpoints.restore_newest(run.abstract.items())
    resumed = TrainState.from_items(items)
    for batch in list(batches(run))[2:]:
        resumed, _ = run.train_step(resumed, batch)
    jax.tree.map(np.testing.assert_array_equal, resumed, state)


@pytest.mark.slow
def test_a_run_evaluates_plain_and_averaged_parameters(tmp_path):
    last = trained(
        tmp_path,
        **{
            "optimizer.ema_warmup": "tensorflow",
            "loss.class_weights": "effective(beta=0.99)",
            "mixup.alpha": 0.5,
            "mixup.off_after.steps": 3,
            "checkpoint.best": "eval/test/ema/top1",
        },
    )
    for use_ema, part in ((False, ""), (True, "ema/")):
        stored = evaluate_checkpoint(str(tmp_path), use_ema=use_ema)
        assert last[f"eval/test/{part}loss"] == pytest.approx(stored["loss"], rel=1e-4)
    assert last["eval/test/loss"] != last["eval/test/ema/loss"]


@pytest.mark.slow
def test_a_schedule_free_run_begins_at_the_weights_it_starts_from(tmp_path):
    """At a rate of all but 0 nothing moves, neither the averages nor the base's parameters."""
    trained(tmp_path / "first", **{"total.steps": 2})
    options = {"init_from": str(tmp_path / "first"), "init_skip": (), "total.steps": 2}
    config = config_of(**options)
    config.optimizer.update(dict(name="schedule_free", schedule="constant", learning_rate=1e-12))
    loop.train(config, str(tmp_path / "second"))
    before, after = (read_weights(tmp_path / name).params for name in ("first", "second"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), before, after)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(use_ema=False), "also_ema needs config.optimizer.ema_decay"),
        (dict(use_ema=True), "also_ema evaluates plain and averaged parameters; leave use_ema"),
    ],
)
def test_wrong_evaluations_are_refused(options, message, tmp_path):
    config = config_of(**{"optimizer.ema_decay": 0.9 if options["use_ema"] else 0.0})
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]", also_ema=True, **options)
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

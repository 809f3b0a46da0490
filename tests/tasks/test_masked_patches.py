"""Masked patch prediction: targets, corruption, the loss, and pre-training before fine-tuning."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax import config as configs
from vit_jax.checkpoint.load import read_weights
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.parallel.pjit import PjitEngine
from vit_jax.tasks.masked_patches import COLORS, corrupt, mean_colors
from vit_jax.train.run import Dataset, prepare

BATCH = 16
DATASET = Dataset(64, 10, (16, 16), (0.5,) * 3, (0.5,) * 3)


def masked_config(**options):
    config = configs.default()
    config.task = "masked"
    config.model.update(name="ViT-Ti/4", width=128, depth=2, mlp_dim=256, num_heads=4)
    config.batch_size = BATCH
    config.total.steps = 10
    config.update_from_flattened_dict(options)
    return config


def test_targets_are_mean_colours_by_three_bits_a_channel():
    images = np.random.default_rng(0).integers(0, 256, (3, 11, 13, 3), dtype=np.uint8)
    colors = np.asarray(mean_colors(jnp.asarray(images), (4, 6), (2, 2)))
    assert colors.shape == (3, 4)
    for i, r, c in np.ndindex(3, 2, 2):
        patch = images[i, 4 * r : 4 * r + 4, 6 * c : 6 * c + 6] / 255
        red, green, blue = (min(int(8 * patch[..., channel].mean()), 7) for channel in range(3))
        assert colors[i, 2 * r + c] == 64 * red + 8 * green + blue


def test_black_white_and_red_have_their_classes():
    plain = np.zeros((4, 4, 4, 3), np.uint8)
    plain[1] = 255
    plain[2, ..., 0] = 255
    plain[3] = 127  # under one half: level 3 of 0 to 7
    colors = np.asarray(mean_colors(jnp.asarray(plain), (4, 4), (1, 1)))[:, 0]
    np.testing.assert_array_equal(colors, [0, COLORS - 1, 7 * 64, 3 * 73])


@functools.cache
def corruptions(patches=20, draws=2000):
    keys = jax.random.split(jax.random.key(0), draws)
    result = jax.jit(jax.vmap(functools.partial(corrupt, patches=patches)))(keys)
    return [np.asarray(array) for array in result]


def test_half_is_corrupted_in_shares_of_80_10_and_10_percent():
    chosen, hidden, source = corruptions()
    own = np.arange(20)
    np.testing.assert_array_equal(chosen.sum(1), 10)
    moved = source != own
    assert not (hidden & ~chosen).any() and not (moved & ~chosen).any()
    assert not (hidden & moved).any()
    total = chosen.sum()
    three_sigma = 3 * (0.16 / total) ** 0.5
    assert hidden.sum() / total == pytest.approx(0.8, abs=three_sigma)
    assert moved.sum() / total == pytest.approx(0.1, abs=three_sigma)
    # Every place is as likely, and so is every other patch.
    assert np.abs(chosen.mean(0) - 0.5).max() < 4 * (0.25 / len(chosen)) ** 0.5
    distance = (source - own)[moved] % 20
    counts = np.bincount(distance, minlength=20)
    assert counts[0] == 0 and counts[1:].min() > 0.6 * len(distance) / 19


def test_the_same_key_corrupts_alike_and_another_does_not():
    chosen, hidden, source = corruptions()
    again = corrupt(jax.random.split(jax.random.key(0), 2000)[7], 20)
    for array, expected in zip(again, (chosen, hidden, source)):
        np.testing.assert_array_equal(array, expected[7])
    assert len({row.tobytes() for row in chosen}) > 1900


@pytest.fixture(scope="module")
def run():
    return prepare(
        masked_config(), DATASET, PjitEngine(configs.default().parallel, jax.devices()[:1])
    )


@functools.cache
def batches(count=3):
    """Images of one colour each, and noise."""
    rng = np.random.default_rng(0)
    return [
        dict(
            image=(rng.integers(0, 200, (BATCH, 1, 1, 3)) + rng.integers(0, 55, (BATCH, 16, 16, 3)))
            .astype(np.uint8),
        )
        for _ in range(count)
    ]  # fmt: skip


def test_the_loss_is_of_corrupted_patches_alone_and_hidden_ones_are_not_seen(run):
    params = run.engine.init(run.create).params
    params = jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
    batch = {"image": jnp.asarray(batches()[0]["image"])}
    inputs = run.task.inputs(batch, jax.random.key(1), None)
    images, colors, chosen, hidden, source, _ = inputs

    @jax.jit
    def losses(images, colors):
        corrupted = inputs._replace(images=images, colors=colors)
        return run.task.losses(run.task.model(params), corrupted, None)

    before = losses(images, colors)
    others = jnp.where(chosen, colors, (colors + 1) % COLORS)
    np.testing.assert_array_equal(losses(images, others), before)
    wrong = jnp.where(chosen, (colors + 1) % COLORS, colors)
    assert (losses(images, wrong) != before).all()

    def paint(where):
        """Noise in all pixels of these patches that no other place shows."""
        shown = np.zeros_like(where)
        for i, row in enumerate(np.asarray(source)):
            shown[i, row[row != np.arange(16)]] = True
        pixels = np.kron((where & ~shown).reshape(-1, 4, 4), np.ones((4, 4)))[..., None]
        return jnp.where(pixels > 0, 1.0, images)

    hidden = np.asarray(hidden)
    np.testing.assert_array_equal(losses(paint(hidden), colors), before)
    assert (losses(paint(~hidden), colors) != before).all()


def test_pre_training_has_an_embedding_and_a_head_of_its_own(run):
    params = run.abstract.params
    assert params["masked"]["embedding"].shape == (1, 1, 128)
    assert params["masked"]["head"]["kernel"].shape == (128, COLORS)
    assert "head" not in params


@pytest.mark.slow
def test_every_layout_gives_the_run_of_one_device(run, capfd):
    def losses(run):
        state = run.engine.init(run.create)
        result = []
        for batch in batches():
            state, metrics = run.train_step(state, run.engine.put_batch(batch, BATCH))
            result.append(float(metrics["loss"]))
        return result

    expected = losses(run)
    assert expected[0] == pytest.approx(np.log(COLORS)) and len(set(expected)) == 3
    layout = {"parallel.data": 2, "parallel.fsdp": 4, "parallel.accumulate": 2}
    for options in (layout, {"parallel.engine": "pmap"}):
        np.testing.assert_allclose(
            losses(prepare(masked_config(**options), DATASET)), expected, 1e-5
        )
    assert "full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "mask"}, "unknown task 'mask' .did you mean 'masked'"),
        ({"model.num_classes": 10}, "no classifier: leave model.num_classes"),
        ({"model.name": "R+ViT-Ti/8"}, "needs a plain ViT"),
        ({"mixup.alpha": 0.2}, "looks at no labels: leave config.mixup"),
    ],
    ids=str,
)
def test_what_does_not_suit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        prepare(masked_config(**options), DATASET)


def command(capfd, *argv):
    """What the command prints."""
    capfd.readouterr()
    assert main([*argv, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_pre_training_on_digits_then_fine_tuning(tmp_path, capfd):
    """The loss falls; the encoder goes on, and what it was trained with is left behind."""
    first, second = tmp_path / "masked", tmp_path / "fine"
    tiny = [
        "train",
        "--config=configs/quickstart.py:pretrain",
        *("--config.model.width=32", "--config.model.depth=2", "--config.model.mlp_dim=64"),
        *("--config.model.num_heads=2", "--config.log.tensorboard=False"),
        *("--config.total.epochs=None", "--config.optimizer.warmup.epochs=None"),
    ]
    options = ("--config.task=masked", "--config.total.steps=40")
    metrics = command(capfd, *tiny, f"--workdir={first}", *options)["metrics"]
    assert metrics["train/loss"] < 4 < np.log(COLORS)
    assert metrics["eval/test/top1"] > 0.2  # of the many greys black is the commonest
    params = read_weights(first).params
    assert "masked" not in params  # of the task alone
    whole = read_weights(first, task_params=True).params
    assert np.asarray(whole["masked"]["embedding"]).any()
    assert vit_jax.load(first)[0](jnp.zeros((1, 16, 16, 3))).shape == (1, 32)

    result = command(capfd, "evaluate", f"--checkpoint={first}")
    assert result["top1"] == pytest.approx(metrics["eval/test/top1"])
    assert result["loss"] == pytest.approx(metrics["eval/test/loss"], rel=1e-5)

    assert main(["predict", f"--checkpoint={first}", __file__]) == 2
    assert f"{first} has no classes" in capfd.readouterr().err

    options = ("--config.total.steps=1", "--config.optimizer.learning_rate=0.0")
    command(capfd, *tiny, f"--workdir={second}", f"--config.init_from={first}", *options)
    tuned = read_weights(second, task_params=True).params
    assert "masked" not in tuned
    assert tuned["head"]["kernel"].shape == (32, 10)
    assert not np.asarray(tuned["head"]["kernel"]).any()
    for part in ("embedding", "cls", "posemb", "blocks", "norm"):
        jax.tree.map(np.testing.assert_array_equal, tuned[part], params[part])

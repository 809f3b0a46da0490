"""Sets of classes: average precision, and images without any class."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vit_jax import config as configs
from vit_jax.evaluate.precision import average_precision, average_precisions
from vit_jax.evaluate.stored import evaluate_checkpoint
from vit_jax.tasks.losses import top_k_correct
from vit_jax.train import loop


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_average_precision_is_scikit_learns(levels):
    rng = np.random.default_rng(levels)
    for share in (0.02, 0.3, 1.0):
        scores = rng.integers(0, levels, 200).astype(np.float32)
        right = rng.random(200) < share
        right[0] = True
        expected = average_precision_score(right, scores)
        assert average_precision(scores, right) == pytest.approx(expected, abs=1e-12)


def test_the_mean_leaves_out_classes_that_no_image_has():
    scores = np.random.default_rng(0).normal(size=(50, 3))
    labels = np.random.default_rng(1).integers(0, 2, (50, 3))
    labels[:, 1] = 0
    found = average_precisions(scores, labels, ["a", "b"])
    expected = average_precision_score(labels[:, [0, 2]], scores[:, [0, 2]], average="macro")
    assert found["mean_average_precision"] == pytest.approx(expected)
    assert list(found["average_precision"]) == ["a", "b", "2"]
    assert found["average_precision"]["b"] is None


def test_an_image_without_labels_counts_by_its_scores():
    logits = jnp.array([[-1.0, -2.0], [0.1, -2.0], [jnp.nan, -1.0]])
    labels = jnp.zeros((3, 2), jnp.uint8)
    assert top_k_correct(logits, labels, 1).tolist() == [True, False, False]


def test_a_run_on_sets_of_classes(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (64, 2)).astype(np.uint8)
    images = rng.integers(0, 30, (64, 16, 16, 3)).astype(np.uint8)
    images[labels[:, 0] == 1, :, :8, 0] = 220
    images[labels[:, 1] == 1, :, 8:, 1] = 220
    np.savez(tmp_path / "d.npz", images=images, labels=labels, label_names=["red", "green"])
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2)
    config.data.update(source=f"npz:{tmp_path}/d.npz", multi_label=True)
    config.data.pp = "value_range(-1, 1)"
    config.loss.name = "sigmoid"
    config.batch_size = 16
    config.total.steps = 80
    config.optimizer.learning_rate = 0.01
    config.log.update(every=20, tensorboard=False)
    config.checkpoint.best = "eval/test/mean_average_precision"
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train")
    loop.train(config, str(tmp_path / "run"))
    found = evaluate_checkpoint(str(tmp_path / "run"))
    assert found["examples"] == 64 and found["top1"] == found["top5"] == 1.0
    assert found["mean_average_precision"] == pytest.approx(1.0)
    assert found["average_precision"] == pytest.approx(dict(red=1.0, green=1.0))
    assert found["loss"] < 0.1

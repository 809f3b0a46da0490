"""Views at test time: beside the mean, by hand, of predictions of each view alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax import config as configs
from vit_jax import create_model, data
from vit_jax.checkpoint.load import load
from vit_jax.errors import InputError
from vit_jax.evaluate.precision import average_precisions
from vit_jax.evaluate.predict import Predictor
from vit_jax.evaluate.stored import evaluate_checkpoint
from vit_jax.tasks.tta import Views, mean_logits
from vit_jax.train import loop
from vit_jax.weights import Weights

OPTIONS = dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=4, image_size=8, num_classes=3)
rng = np.random.default_rng(0)


def views_by_hand(images, tta, size):
    """Krizhevsky's: corners, middle, and their mirror images."""
    h, w = size
    if tta == "flip":
        views = [images]
    else:
        views = [images[:, :h, :w], images[:, :h, -w:], images[:, -h:, :w], images[:, -h:, -w:]]
        y, x = (images.shape[1] - h) // 2, (images.shape[2] - w) // 2
        views.append(images[:, y : y + h, x : x + w])
    return views + [np.flip(view, 2) for view in views] if tta != "five_crop" else views


@pytest.mark.parametrize("tta, count", [("flip", 2), ("five_crop", 5), ("ten_crop", 10)])
def test_views_are_corners_middle_and_mirror_images(tta, count):
    size = (6, 4)
    images = rng.normal(size=(3, *((8, 10) if tta != "flip" else size), 2)).astype(np.float32)
    found = Views(tta, size).of(jnp.asarray(images))
    assert found.shape == (count, 3, *size, 2)
    np.testing.assert_array_equal(found, views_by_hand(images, tta, size))


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_probabilities_of_mean_logits_are_the_mean_probabilities(sigmoid):
    logits = rng.normal(size=(5, 4, 3)) * 6
    if sigmoid:
        mean = (1 / (1 + np.exp(-logits))).mean(0)
        found = jax.nn.sigmoid(mean_logits(jnp.asarray(logits), True))
    else:
        mean = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
        found = jax.nn.softmax(mean_logits(jnp.asarray(logits), False))
    np.testing.assert_allclose(found, mean, rtol=1e-4)
    extreme = mean_logits(jnp.array([[[200.0, -200.0]], [[-200.0, 200.0]]]), sigmoid)
    assert np.isfinite(extreme).all()


@pytest.mark.parametrize(
    "pp, larger",
    [
        ("resize_small(256)|central_crop(224)", "resize_small(256)|central_crop((256, 256))"),
        ("resize(256)|central_crop(224)", "resize(256)"),
        ("resize(224)", "resize((256, 256))"),
        ("resize((224, 112), 'bicubic')", "resize((256, 128), 'bicubic')"),
        (
            "resize_small(7)|central_crop(7)",
            "resize_small((8, 8))|central_crop((8, 8))",
        ),
        ("pad(2)|resize(224)|central_crop(224)", "pad(2)|resize((256, 256))"),
    ],
)
def test_crops_are_cut_from_a_larger_image(pp, larger):
    found = data.parse(f"{pp}|value_range(-1, 1)").for_crops("tta")
    assert str(found) == str(data.parse(f"{larger}|value_range(-1, 1)"))


def test_no_larger_image_is_refused():
    with pytest.raises(InputError, match="tta: no larger image to cut crops from in 'decode"):
        data.parse("decode|value_range(-1, 1)").for_crops("tta")


@pytest.mark.parametrize("tta, multi_label", [("flip", True), ("ten_crop", False)])
def test_predictions_are_the_mean_of_those_of_each_view(tta, multi_label, tmp_path):
    model = create_model("ViT-Ti/16", **OPTIONS)
    model.head.kernel[...] = 3 * rng.normal(size=model.head.kernel.shape)
    pp = "decode|resize(10)|central_crop(8)|normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))"
    info = Weights(
        name="ViT-Ti/16", options=OPTIONS, pp=pp, labels=["a", "b", "c"], multi_label=multi_label
    )
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).save(path)
    alone = Predictor(model, info)
    size = 8 if tta == "flip" else 10
    text = f"resize(10)|central_crop({size})"
    images = np.concatenate([data.load_images([path], data.parse(text)) for path in paths])
    parts = [alone(np.ascontiguousarray(view)) for view in views_by_hand(images, tta, (8, 8))]
    assert np.std(parts, axis=0).max() > 1e-3
    found = Predictor(model, info, tta=tta).files(paths)
    np.testing.assert_allclose(found, np.mean(parts, axis=0), atol=1e-5)
    with pytest.raises(InputError, match="did you mean 'five_crop'"):
        Predictor(model, info, tta="five_crops")


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def trained(request, tmp_path_factory):
    """A short run on coloured images, with classes or sets of classes; evaluated with views."""
    folder = tmp_path_factory.mktemp(request.param)
    labels = rng.integers(0, 2, (48, 2)).astype(np.uint8)
    images = rng.integers(0, 90, (48, 16, 16, 3)).astype(np.uint8)
    images[labels[:, 0] == 1, :, :8, 0] += 60
    images[labels[:, 1] == 1, :, 8:, 1] += 60
    several = request.param == "sigmoid"
    given = labels if several else labels[:, 0].astype(np.int32)
    np.savez(folder / "d.npz", images=images, labels=given, label_names=["red", "green"])
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=2)
    config.data.update(source=f"npz:{folder}/d.npz", multi_label=several)
    config.data.pp = "resize(12)|value_range(-1, 1)"
    config.loss.name = request.param
    config.batch_size = 16
    config.total.steps = 20
    config.optimizer.learning_rate = 0.02
    config.log.update(every=20, tensorboard=False)
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train", tta="ten_crop", batch_size=40)
    summary = loop.train(config, str(folder / "run"))
    return folder / "run", images, given, summary["metrics"]


def test_evaluations_average_probabilities_and_count_each_example_once(trained):
    workdir, images, labels, metrics = trained
    model, info = load(str(workdir))
    larger = data.parse("resize(14)").batched(images, None)
    logits = [
        np.asarray(model(jnp.asarray(view / 127.5 - 1, jnp.float32)), np.float64)
        for view in views_by_hand(larger, "ten_crop", (12, 12))
    ]
    found = evaluate_checkpoint(str(workdir))  # as the run's own evaluation
    assert found["examples"] == 48
    if labels.ndim == 1:
        p = np.mean([np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits], axis=0)
        assert found["top1"] == pytest.approx((p.argmax(-1) == labels).mean())
        loss = -np.log(p[np.arange(48), labels]).mean()
    else:
        p = np.mean([1 / (1 + np.exp(-x)) for x in logits], axis=0)
        loss = -np.where(labels, np.log(p), np.log(1 - p)).sum(-1).mean()
        expected = average_precisions(p, labels, info.labels)["mean_average_precision"]
        assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-3)
    assert found["loss"] == pytest.approx(loss, rel=1e-3)
    assert metrics["eval/test/loss"] == pytest.approx(found["loss"], rel=1e-5)
    plain = evaluate_checkpoint(str(workdir), tta="none")
    assert abs(plain["loss"] - found["loss"]) > 1e-5


def test_pmap_averages_the_same_views(trained, tmp_path):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=2)
    config.data.source = f"npz:{trained[0].parent}/d.npz"
    config.data.multi_label = trained[2].ndim > 1
    config.loss.name = "sigmoid" if config.data.multi_label else "softmax"
    config.data.pp = "resize(12)|value_range(-1, 1)"
    config.batch_size, config.parallel.engine = 16, "pmap"
    config.total.steps = 2
    config.optimizer.learning_rate = 0.02
    config.log.update(tensorboard=False)
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train", tta="ten_crop", batch_size=40)
    metrics = loop.train(config, str(tmp_path / "run"))["metrics"]
    found = evaluate_checkpoint(str(tmp_path / "run"))  # under pjit
    assert metrics["eval/test/loss"] == pytest.approx(found["loss"], rel=1e-5)
    plain = evaluate_checkpoint(str(tmp_path / "run"), tta="none")
    assert abs(plain["loss"] - found["loss"]) > 1e-5


def test_unknown_views_are_refused(trained):
    with pytest.raises(InputError, match="^unknown evaluation.tta .*'five_crop'"):
        evaluate_checkpoint(str(trained[0]), tta="five_crops")

"""Calibration, the worst errors, and the same numbers under both engines."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from sklearn import metrics

from vit_jax import create_model
from vit_jax.checkpoint.load import load, read_weights
from vit_jax.data import open_source
from vit_jax.errors import InputError
from vit_jax.evaluate.analysis.calibration import calibration
from vit_jax.evaluate.analysis.confusion import ConfusionEvaluation, unique_names
from vit_jax.evaluate.analysis.records import Records
from vit_jax.evaluate.stored import evaluate_checkpoint, evaluate_details, open_stored, replicate
from vit_jax.models.naflex import pack, unpacked_image
from vit_jax.options import section
from vit_jax.parallel.engines import create_engine
from vit_jax.parallel.mesh import ParallelOptions
from vit_jax.weights import Weights, write


def test_calibration_of_constant_confidence_is_the_gap():
    """One bin: |accuracy - confidence|, in closed form."""
    right = np.array([1, 1, 1, 0])
    found = calibration(np.full(4, 0.9), right)
    assert found["ece"] == pytest.approx(0.9 - 0.75)
    (full,) = (one for one in found["calibration"] if one["count"])
    assert full["low"] == pytest.approx(13 / 15) and full["high"] == pytest.approx(14 / 15)
    assert full["confidence"] == pytest.approx(0.9) and full["accuracy"] == 0.75
    assert calibration(np.ones(3), np.ones(3))["ece"] == 0
    assert calibration(np.zeros(0), np.zeros(0))["ece"] == 0


def test_calibration_is_that_of_numpys_histograms():
    """Bins are closed above (1706.04599), NumPy's digitize with right=True."""
    rng = np.random.default_rng(0)
    probability = np.concatenate([rng.random(2000), np.arange(1, 16) / 15]).astype(np.float32)
    right = rng.random(len(probability)) < probability**2
    found = calibration(probability, right)
    places = np.digitize(probability.astype(float), np.arange(1, 15) / 15, right=True)
    expected = 0.0
    for i in range(15):
        inside = places == i
        gap = abs(right[inside].mean() - probability[inside].mean(dtype=float))
        expected += inside.mean() * gap
        assert found["calibration"][i]["count"] == inside.sum()
    assert found["ece"] == pytest.approx(expected, abs=1e-9) and expected > 0.1


def test_the_worst_are_errors_by_their_loss():
    loss = np.array([9, 1, np.nan, 3, 3, 2], np.float32)
    label, predicted = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 1, 0, 0, 0, 0])
    none = np.zeros(6, np.float32)
    records = Records(np.arange(6), label, predicted, none, none, loss, none, none)
    assert records.worst(10).tolist() == [2, 3, 4, 5, 1]
    assert records.worst(2).tolist() == [2, 3]


def test_names_of_several_classes_are_told_apart():
    assert unique_names(["crane", "cat", "crane"], 4) == ["crane (0)", "cat", "crane (2)", "3"]


def test_patches_become_the_image_again():
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    patches = image.reshape(3, 2, 2, 2, 3).swapaxes(1, 2).reshape(6, 2, 2, 3)
    packed = pack(np.pad(patches, ((0, 3), (0, 0), (0, 0), (0, 0))), (3, 2))
    np.testing.assert_array_equal(unpacked_image(packed), image)


PP = "resize(16)|value_range(-1, 1)"
OWN = dict(source="digits", split="train[70%:]")


CLASSES = 12  # two of which no image has


@pytest.fixture(scope="module")
def sharp(tmp_path_factory):
    """Weights of a small model with a random head."""
    options = dict(width=16, depth=1, mlp_dim=16, num_heads=2, image_size=16, num_classes=CLASSES)
    model = create_model("ViT-Ti/4", **options)
    model.head.kernel[...] = 9 * np.random.default_rng(0).normal(size=(16, CLASSES))
    means = model(np.float32(digits()[0]) / 127.5 - 1).mean(0)
    model.head.bias[...] = -means  # so that no class is always ahead
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    params = jax.tree.map(np.asarray, params)
    file = tmp_path_factory.mktemp("sharp") / "weights.npz"
    write(Weights(name="ViT-Ti/4", options=options, params=params, pp=PP), file)
    return file


@pytest.fixture(scope="module")
def by_hand(sharp):
    """Logits of the model for the test images, in batches of another kind."""
    model, _ = load(str(sharp))
    images = digits()[0]
    scaled = np.float32(images) / 127.5 - 1
    return np.concatenate([np.asarray(model(scaled[i : i + 77])) for i in range(0, 539, 77)])


def digits():
    from vit_jax import data

    source = open_source("digits", "train[70%:]")
    pp = data.parse(PP)
    (batch,) = data.eval_batches(source, pp, batch_size=source.size)
    return batch["image"], batch["label"]


def test_details_are_those_of_the_logits(sharp, by_hand):
    results, details = evaluate_details(str(sharp), **OWN, worst=7, batch_size=100)
    labels = digits()[1]
    logits = by_hand.astype(np.float64)[:, :CLASSES]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    predicted = logits.argmax(-1)
    assert results["examples"] == 539 and len(set(predicted)) > 5
    assert results["top1"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert results["top5"] == pytest.approx(
        metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(CLASSES))
    )
    loss = -log_p[np.arange(539), labels]
    assert results["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    assert results["ece"] == pytest.approx(
        calibration(np.exp(log_p.max(-1)), predicted == labels)["ece"], abs=1e-5
    )
    matrix = metrics.confusion_matrix(labels, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(details.matrix, matrix)
    recalls = metrics.recall_score(labels, predicted, average=None, labels=range(10))
    shares = list(results["class_accuracy"].values())
    np.testing.assert_allclose(shares[:10], recalls)
    assert shares[10:] == [None] * (CLASSES - 10)

    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-loss[wrong])][:7]
    assert [one["index"] for one in results["worst"]] == order.tolist()
    for one, i in zip(results["worst"], order):
        assert one["image"] == f"example {i} of digits (train[70%:])"
        assert (one["label"], one["predicted"]) == (str(labels[i]), str(predicted[i]))
        assert one["loss"] == pytest.approx(loss[i], rel=1e-3)
        assert one["probability"] == pytest.approx(np.exp(log_p[i]).max(), rel=1e-3)
    pictures = list(details.pictures(results["worst"]))
    np.testing.assert_array_equal(pictures, digits()[0][order])

    plain = evaluate_checkpoint(str(sharp), **OWN)
    for name in ("top1", "top5", "examples", "source", "split"):
        assert results[name] == plain[name]
    assert results["loss"] == pytest.approx(plain["loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["pjit", "pmap"])
def test_both_engines_count_every_example_once(name, sharp, by_hand):
    """539 examples in batches of 96 over eight devices: the last one is padded."""
    stored = open_stored(str(sharp), batch_size=96)
    options = section(ParallelOptions)
    options.engine = name
    engine = create_engine(options)
    context = dataclasses.replace(stored.context, engine=engine)
    evaluation = ConfusionEvaluation(**OWN)
    params = replicate(engine, read_weights(str(sharp)).params)
    seen = []
    records = evaluation.classify(context)(params, lambda: seen.append(1)).records
    assert len(seen) == 6 and records.index.tolist() == list(range(539))
    np.testing.assert_array_equal(records.label, digits()[1])
    np.testing.assert_array_equal(records.predicted, by_hand.argmax(-1))


def test_tta_is_averaged(sharp):
    own = dict(source="digits", split="train[70%:75%]")
    plain, _ = evaluate_details(str(sharp), **own)
    views, details = evaluate_details(str(sharp), **own, tta="flip")
    expected = evaluate_checkpoint(str(sharp), **own, tta="flip")
    assert views["examples"] == plain["examples"] == len(details.records) == 90
    assert views["loss"] == pytest.approx(expected["loss"], rel=1e-5) != plain["loss"]


def test_images_of_classes_that_the_model_lacks_do_not_count(sharp, tmp_path):
    images, labels = digits()
    names = [str(i) for i in range(10)]
    np.savez(tmp_path / "x.npz", images=images, labels=labels, label_names=[*names[:9], "other"])
    stored = open_stored(str(sharp))
    context = dataclasses.replace(stored.context, labels=[*names, *map(str, range(10, CLASSES))])
    evaluation = ConfusionEvaluation(source=f"npz:{tmp_path}/x.npz", split="train")
    details = evaluation.classify(context)(stored.params, lambda: None)
    assert len(details.records) == (labels < 9).sum()
    assert details.records.index.tolist() == np.flatnonzero(labels < 9).tolist()


def test_a_task_without_classes_is_refused(sharp):
    stored = open_stored(str(sharp))
    context = dataclasses.replace(stored.context, task=object())
    with pytest.raises(InputError, match="the model has no classes"):
        ConfusionEvaluation(source="digits").open(context)

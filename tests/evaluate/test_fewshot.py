"""Few-shot evaluation against scikit-learn's ridge regression on the same features."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from vit_jax.data import open_source
from vit_jax.errors import InputError
from vit_jax.evaluate.frozen.fewshot import RidgeRegression, few_shot, select_shots


def pixels(source, examples=None):
    """Raw pixels as features."""
    rows = np.arange(source.size) if examples is None else examples
    return source.images[rows].reshape(len(rows), -1).astype(np.float32), source.targets[rows]


def ridge(x, y, l2):
    """scikit-learn's solution of the public protocol: a function features -> scores."""
    mean, scale = x.mean(0), x.std(0) + 1e-5

    def design(features):
        white = (features - mean) / scale
        return np.concatenate([white, np.full((len(white), 1), 100.0)], axis=1)

    model = Ridge(alpha=l2, fit_intercept=False, solver="cholesky")
    model.fit(design(x), 2.0 * np.eye(y.max() + 1)[y] - 1.0)
    return model, lambda features: design(features) @ model.coef_.T


@pytest.mark.parametrize("examples", [40, 64, 65, 300])  # dual and primal, of 64 features
@pytest.mark.parametrize("l2", [2.0**-10, 2.0**10, 2.0**19])
def test_equals_scikit_learn(examples, l2):
    rng = np.random.default_rng(examples)
    x = rng.normal(3.0, 2.0, (examples, 64))
    y = np.arange(examples) % 7
    ours = RidgeRegression(x, y, 7)
    model, scores = ridge(x, y, l2)
    np.testing.assert_allclose(ours.weights(l2), model.coef_.T, rtol=1e-5, atol=1e-9)
    test_x, test_y = rng.normal(3.0, 2.0, (500, 64)), rng.integers(0, 7, 500)
    expected = np.mean(scores(test_x).argmax(1) == test_y)
    assert ours.accuracies(test_x, test_y, [l2])[0] == pytest.approx(expected)


def test_a_feature_that_never_changes_does_no_harm():
    x = np.ones((30, 5))
    x[:, 0] = np.arange(30) % 2
    model = RidgeRegression(x, np.arange(30) % 2, 2)
    assert model.accuracies(x, np.arange(30) % 2, [1.0])[0] == 1


def test_shots_are_of_their_class_nested_and_drawn_by_the_seed():
    labels = load_digits().target
    names = [str(i) for i in range(10)]
    ten = select_shots(labels, 10, 0, names)
    assert ten.shape == (10, 10) and len(np.unique(ten)) == 100
    np.testing.assert_array_equal(labels[ten], np.arange(10)[:, None] * np.ones(10, int))
    np.testing.assert_array_equal(select_shots(labels, 3, 0, names), ten[:, :3])
    assert (select_shots(labels, 10, 1, names) != ten).mean() > 0.9


def test_digits_pixels_as_features():
    train, test = open_source("digits", "train[:80%]"), open_source("digits", "train[80%:]")
    chosen = few_shot(train, test, shots=(10, 1), seeds=3, l2=(1.0, 1024.0))
    results = chosen.run(pixels)
    assert list(results) == [1, 10]
    for shots, found in results.items():
        accuracies = np.zeros((3, 2))
        for seed in range(3):
            rows = select_shots(train.targets, shots, seed, train.label_names).ravel()
            for i, l2 in enumerate((1.0, 1024.0)):
                _, scores = ridge(*pixels(train, rows), l2)
                x, y = pixels(test)
                accuracies[seed, i] = np.mean(scores(x).argmax(1) == y)
        best = accuracies.mean(0).argmax()
        assert found["l2"] == (1.0, 1024.0)[best]
        assert found["seeds"] == pytest.approx(accuracies[:, best].tolist())
        assert found["top1"] == pytest.approx(accuracies[:, best].mean())
        assert found["std"] == pytest.approx(accuracies[:, best].std(ddof=1))
    assert results[10]["top1"] > results[1]["top1"] > 0.4


def test_as_an_evaluation_during_training(workdir, features_of):
    """The run's metrics are those of its checkpoint."""
    metrics = json.loads((workdir / "summary.json").read_text())["metrics"]
    train, test = open_source("digits", "train[:70%]"), open_source("digits", "train[70%:]")
    chosen = few_shot(train, test, shots=(1, 5), seeds=2)
    results = chosen.run(features_of(workdir))
    for shots in (1, 5):
        assert metrics[f"eval/digits/{shots}shot"] == pytest.approx(results[shots]["top1"])
    assert results[5]["top1"] > results[1]["top1"] > 0.2  # chance is 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(shots=(0,)), "at least one positive"),
        (dict(seeds=0), "at least one positive"),
        (dict(l2=(0.0,)), "at least one positive"),
        (dict(l2=(np.inf,)), "at least one positive"),
        (dict(l2=("a",)), "at least one positive"),
    ],
)
def test_numbers_that_make_no_sense(options, message):
    train = open_source("digits", "train[:80%]")
    with pytest.raises(InputError, match=message):
        few_shot(train, train, **options)


def test_a_class_with_fewer_examples_gives_all_it_has(caplog):
    """Oxford Flowers has 10 of each class; the default goes up to 25 shots."""
    labels = np.repeat([0, 1, 2], [30, 4, 12])
    chosen = select_shots(labels, 10, 0, ["a", "b", "c"])
    assert (chosen >= 0).sum(1).tolist() == [10, 4, 10]
    assert sorted(chosen[1][:4]) == [30, 31, 32, 33] and set(chosen[1][4:]) == {-1}
    np.testing.assert_array_equal(select_shots(labels, 3, 0, ["a", "b", "c"]), chosen[:, :3])
    train, test = open_source("digits", "train[:10%]"), open_source("digits", "train[80%:]")
    found = few_shot(train, test, shots=(5, 1000), seeds=2).run(pixels)
    assert "10 of 10 classes of digits (train[:10%]) have fewer than 1000 examples" in caplog.text
    x, y = pixels(train)
    _, scores = ridge(x, y, 2.0**10)  # all examples there are, whatever the seed
    x_test, y_test = pixels(test)
    right = np.mean(scores(x_test).argmax(1) == y_test)
    assert found[1000]["seeds"] == pytest.approx([right, right])

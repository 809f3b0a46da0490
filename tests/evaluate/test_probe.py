"""The probes on digits' pixels, against scikit-learn and the optimum's own condition."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from vit_jax.errors import InputError
from vit_jax.evaluate.frozen import probe

DIGITS = load_digits()
X, Y = DIGITS.data.astype(np.float32), DIGITS.target
TRAIN, TEST = slice(0, 500), slice(500, 900)


@pytest.mark.parametrize("k", [1, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_votes_as_scikit_learns(k, temperature):
    theirs = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(X[TRAIN], Y[TRAIN])
    ours = probe.knn_predict(
        X[TRAIN], Y[TRAIN], X[TEST], num_classes=10, k=k, temperature=temperature
    )
    np.testing.assert_array_equal(ours, theirs.predict(X[TEST]))


def test_the_linear_probe_is_at_the_optimum():
    """At the optimum the penalty's gradient, W, equals that of the loss, C sum (p - y) x."""
    result = probe.linear_probe(X[TRAIN], Y[TRAIN], X[TEST], Y[TEST], c=(0.01,))
    model = probe._fit(X[TRAIN], Y[TRAIN], 0.01, 1000)[-1]
    mean, std = X[TRAIN].mean(0), X[TRAIN].std(0)
    white = (X - mean) / np.where(std > 0, std, 1)
    scores = white @ model.coef_.T + model.intercept_
    p = np.exp(scores - scores.max(1, keepdims=True))[TRAIN]
    p /= p.sum(1, keepdims=True)
    gradient = model.coef_ + 0.01 * (p - np.eye(10)[Y[TRAIN]]).T @ white[TRAIN]
    assert np.abs(gradient).max() < 0.01 * np.abs(model.coef_).max()
    assert result["top1"] == pytest.approx(np.mean(scores[TEST].argmax(1) == Y[TEST]))
    assert result["iterations"] < 1000


def test_the_penalty_is_chosen_on_training_examples():
    result = probe.linear_probe(X[TRAIN], Y[TRAIN], X[TEST], Y[TEST], c=(1e-7, 0.01))
    assert result["c"] == 0.01  # the other is hardly more than a constant


@pytest.mark.parametrize(
    "count, c, message", [(50, (np.nan,), "give positive"), (1, (1.0,), "1 training examples of 1")]
)
def test_what_no_probe_can_be_fitted_to(count, c, message):
    with pytest.raises(InputError, match=message):
        probe.linear_probe(X[:count], Y[:count], X[TEST], Y[TEST], c=c)


@pytest.mark.parametrize(
    "options", [dict(k=0), dict(k=501), dict(temperature=0.0), dict(temperature=np.nan)]
)
def test_knn_numbers_that_make_no_sense(options):
    with pytest.raises(InputError, match="k-NN with"):
        probe.knn_predict(X[TRAIN], Y[TRAIN], X[TEST], num_classes=10, **options)

"""The confusion matrix, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from vit_jax.evaluate.analysis.confusion import confusion_matrix, results


def test_matrix_and_accuracies_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, (2, 500))
    matrix = confusion_matrix(labels, predicted, 7)  # no image has class 6
    np.testing.assert_array_equal(
        matrix, metrics.confusion_matrix(labels, predicted, labels=range(7))
    )
    found = results(matrix, [f"class {i}" for i in range(7)])
    assert found["top1"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    recalls = metrics.recall_score(labels, predicted, average=None, labels=range(6))
    assert found["examples"] == 500 and found["class_accuracy"]["class 6"] is None
    for i, recall in enumerate(recalls):
        assert found["class_accuracy"][f"class {i}"] == pytest.approx(recall)


def test_pairs_are_sorted_by_their_number():
    matrix = np.array([[5, 1, 0], [4, 0, 0], [1, 1, 2]])
    pairs = results(matrix, ["a", "b", "c"])["confused"]
    assert [(p["label"], p["predicted"], p["count"]) for p in pairs] == [
        ("b", "a", 4), ("a", "b", 1), ("c", "a", 1), ("c", "b", 1),
    ]  # fmt: skip
    assert pairs[0]["share"] == 1 and pairs[1]["share"] == pytest.approx(1 / 6)

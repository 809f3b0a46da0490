"""Few-shot linear evaluation: ridge regression on frozen features in closed form.

The paper's quick measure of a representation (section 4.1, tables 8 and figures 3 and 4),
by the public protocol: features are standardised with the mean and standard deviation of the
shots, a constant feature takes the place of an intercept, and targets are -1 and 1.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax import data
from vit_jax.data import Source
from vit_jax.errors import InputError
from vit_jax.evaluate.evaluation import EVALUATIONS, Context, Opened
from vit_jax.evaluate.features import FeatureEvaluation, Features
from vit_jax.options import option

log = logging.getLogger(__name__)

SHOTS = (1, 5, 10, 25)
SEEDS = 3
L2 = (2.0**10,)
L2_SWEEP = tuple(2.0**power for power in range(-10, 20))  # of older publications
BIAS = 100.0
EPSILON = 1e-5  # added to deviations
_ROWS = 8192  # test examples at a time


class RidgeRegression:
    """argmin_W |x W - y|^2 + l2 |W|^2 for any number of l2 after one eigendecomposition.

    x are the standardised features and the constant one, y the targets in {-1, 1}. With
    fewer examples than features the dual problem is smaller and is solved instead:
    (x x^T + l2)^-1 instead of (x^T x + l2)^-1. All is float64, as the problem is ill
    conditioned for small l2.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int):
        """Features are (n, d), labels (n,) in [0, num_classes)."""
        features = features.astype(np.float64)
        self.mean = features.mean(0)
        self.scale = features.std(0) + EPSILON
        x = self.design(features)
        if len(x) < x.shape[1]:
            self._eigenvalues, vectors = np.linalg.eigh(x @ x.T)
            self._left = x.T @ vectors
            self._right = vectors.T @ (2.0 * np.eye(num_classes)[labels] - 1.0)
        else:
            self._eigenvalues, vectors = np.linalg.eigh(x.T @ x)
            sums = np.zeros((num_classes, x.shape[1]))
            np.add.at(sums, labels, x)
            self._left = vectors
            self._right = vectors.T @ (2.0 * sums - x.sum(0)).T  # x^T y without y

    def design(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, d + 1): standardised features, with the constant feature last."""
        white = (features.astype(np.float64) - self.mean) / self.scale
        return np.pad(white, ((0, 0), (0, 1)), constant_values=BIAS)

    def weights(self, l2: float) -> np.ndarray:
        """W: (d + 1, num_classes)."""
        return self._left @ (self._right / (self._eigenvalues + l2)[:, None])

    def accuracies(
        self, features: np.ndarray, labels: np.ndarray, l2: Sequence[float]
    ) -> np.ndarray:
        """Share of right answers for each l2."""
        weights = [self.weights(value) for value in l2]
        right = np.zeros(len(l2))
        for start in range(0, len(features), _ROWS):
            x = self.design(features[start : start + _ROWS])
            y = labels[start : start + _ROWS]
            right += [np.sum((x @ w).argmax(1) == y) for w in weights]
        return right / len(features)


def select_shots(labels: np.ndarray, shots: int, seed: int, names: Sequence[str]) -> np.ndarray:
    """Chooses `shots` random examples of each class, or all of a class that has fewer.

    With the same seed, fewer shots are the first ones of more.

    Args:
      labels: int (n,).
      shots: number of examples of each class.
      seed: random seed of the choice.
      names: name of each class.

    Returns:
      Numbers of the examples: int (classes, `shots`, or those of the largest class if these are
      fewer), -1 where a class has no more.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels, minlength=len(names))
    place = np.arange(min(shots, max(int(counts.max()), 1)))
    rows = np.minimum((np.cumsum(counts) - counts)[:, None] + place, len(labels) - 1)
    return np.where(place < counts[:, None], order[rows], -1)


@dataclasses.dataclass(frozen=True)
class FewShot:
    """A pair of data sets and the shots on which a classifier is fitted.

    Only the shots and the test examples are read.

    Attributes:
      train, test: data sets of the same classes.
      shots: numbers of examples of each class, ascending.
      chosen: numbers of the training examples, int (seeds, classes, most shots); -1: none.
      l2: penalties; if several, the best on the test examples counts.
    """

    train: Source
    test: Source
    shots: tuple[int, ...]
    chosen: np.ndarray
    l2: tuple[float, ...]

    def run(self, features: Features) -> dict[int, dict[str, Any]]:
        """Fits and tests the classifiers.

        Returns:
          shots -> {"top1" (mean over seeds), "std" (over seeds), "seeds" (each), "l2"}.
        """
        numbers = np.unique(self.chosen[self.chosen >= 0])
        where = np.searchsorted(numbers, self.chosen)
        x, y = features(self.train, numbers)
        x_test, y_test = features(self.test, None)
        results: dict[int, dict[str, Any]] = {}
        for shots in self.shots:
            there = self.chosen[:, :, :shots] >= 0
            rows = [found[:, :shots][kept] for found, kept in zip(where, there)]
            found = np.array(
                [
                    RidgeRegression(x[r], y[r], self.train.num_classes).accuracies(
                        x_test, y_test, self.l2
                    )
                    for r in rows
                ]
            )
            best = int(found.mean(0).argmax())
            results[shots] = dict(
                top1=float(found[:, best].mean()),
                std=float(found[:, best].std(ddof=1)) if len(found) > 1 else 0.0,
                seeds=found[:, best].tolist(),
                l2=self.l2[best],
            )
        return results


def _positive(values: Sequence[Any], kinds: tuple[type, ...]) -> bool:
    numbers = all(isinstance(value, kinds) for value in values)
    return bool(values) and numbers and all(0 < value < math.inf for value in values)


def few_shot(
    train: Source,
    test: Source,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    l2: Sequence[float] = L2,
) -> FewShot:
    """Chooses the shots.

    Raises:
      InputError: a number is not positive, or labels are sets of classes.
    """
    whole, real = (int,), (int, float)
    if not (_positive(shots, whole) and _positive((seeds,), whole) and _positive(l2, real)):
        raise InputError(
            f"few-shot evaluation with shots {tuple(shots)}, {seeds} seeds and l2 {tuple(l2)}: "
            "give at least one positive number of each"
        )
    shots = tuple(sorted(set(shots)))
    labels = data.read_labels(train)
    if labels.ndim > 1:
        raise InputError(f"few-shot evaluation wants one class an image; {train.name} holds sets")
    _report_few(np.bincount(labels, minlength=train.num_classes), shots[-1], train)
    chosen = [select_shots(labels, shots[-1], seed, train.label_names) for seed in range(seeds)]
    return FewShot(train, test, shots, np.stack(chosen), tuple(l2))


def _report_few(counts: np.ndarray, shots: int, train: Source) -> None:
    """Says how many classes have fewer examples than the largest number of shots."""
    if short := int((counts < shots).sum()):
        least = int(counts.argmin())
        log.warning(
            "few-shot evaluation: %d of %d classes of %s (%s) have fewer than %d examples, the "
            "least %r with %d; all of theirs are taken",
            short, len(counts), train.name, train.split, shots, train.label_names[least],
            counts[least],
        )  # fmt: skip


@EVALUATIONS.register("fewshot")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotEvaluation(FeatureEvaluation):
    """Few-shot linear evaluation; the metrics "1shot", "5shot", ... are means over seeds."""

    shots: tuple[int, ...] = option(
        SHOTS, "numbers of training examples per class, each tested on its own", effect="course"
    )
    seeds: int = option(
        SEEDS,
        "number of random choices of the training examples, over which results are averaged",
        effect="course",
    )
    l2: tuple[float, ...] = option(
        L2,
        "L2 penalties of the ridge regression; if several, the best on the test examples counts",
        effect="course",
    )

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`; results also have `shots`, in detail by number."""
        train, test = self.open_pair(context)
        chosen = few_shot(train, test, shots=self.shots, seeds=self.seeds, l2=self.l2)
        features = self.compile(context)

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            found = chosen.run(features(params, after_batch))
            means = {f"{shots}shot": result["top1"] for shots, result in found.items()}
            return dict(
                means,
                shots={str(shots): result for shots, result in found.items()},
                source=train.name,
                train=train.split,
                test=test.split,
                examples=test.size,
                classes=train.num_classes,
            )

        return Opened(tuple(f"{shots}shot" for shots in chosen.shots), run)

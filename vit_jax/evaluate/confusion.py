"""The confusion matrix of a classifier: which classes are taken for which."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax import data
from vit_jax.errors import InputError
from vit_jax.evaluate.classes import match_classes
from vit_jax.evaluate.evaluation import (
    EVALUATIONS,
    Context,
    Evaluation,
    Opened,
    check_normalization,
)
from vit_jax.evaluate.features import compile_outputs
from vit_jax.options import option


@EVALUATIONS.register("confusion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfusionEvaluation(Evaluation):
    """Top-1, the accuracy of each class, and how often each class is taken for each other."""

    split: str = option(
        "test", 'split to evaluate on, in tfds syntax: "test", "train[90%:]"', effect="course"
    )

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`; for data with one class an image."""
        source = context.open_source(self.source, self.split)
        width = context.model_config.num_classes
        match = match_classes(source, context.labels, width)
        pp = data.parse(self.pp) if self.pp else context.pp
        check_normalization(context, pp)
        outputs = compile_outputs(
            context.engine,
            context.model_config,
            pp,
            batch_size=self.batch_size or context.batch_size,
            reduce=lambda logits: jnp.argmax(logits, axis=-1).astype(jnp.int32),
            threads=context.data.threads,
        )
        if source.num_classes > width and match.trivial:
            raise InputError(
                f"{context.where}: {source.name} has labels of {source.num_classes} classes, "
                f"the model has {width}"
            )
        names = [*context.labels] or [str(number) for number in range(width)]

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            predicted, labels = outputs(params, source, None, after_batch)
            places = match.places[labels]
            known = places >= 0
            return results(confusion_matrix(places[known], predicted[known], width), names)

        return Opened(("top1",), run)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The number of images by class and predicted class, int64 (classes, classes).

    Args:
      labels: classes, int (n,).
      predicted: predicted classes, int (n,).
      classes: number of classes.
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def results(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Results of a confusion matrix.

    Args:
      matrix: images by class and predicted class.
      names: class names by number.

    Returns:
      `top1`; `examples`; `class_accuracy` by name, None for a class without images; `confused`:
      pairs of classes with `label`, `predicted`, `count` and `share` of the images of `label`,
      the most frequent first; `confusion`: the matrix as lists.
    """
    totals, right = matrix.sum(axis=1), matrix.diagonal()
    wrong = matrix - np.diag(right)
    rows, columns = np.nonzero(wrong)
    order = np.lexsort((columns, rows, -wrong[rows, columns]))
    return dict(
        top1=float(right.sum() / max(totals.sum(), 1)),
        examples=int(totals.sum()),
        class_accuracy={
            name: float(hits / total) if total else None
            for name, hits, total in zip(names, right, totals)
        },
        confused=[
            dict(
                label=names[row],
                predicted=names[column],
                count=int(wrong[row, column]),
                share=float(wrong[row, column] / totals[row]),
            )
            for row, column in zip(rows[order], columns[order])
        ],
        confusion=matrix.tolist(),
    )

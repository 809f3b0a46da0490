"""Which classes a classifier takes for which, how sure it is, and where it is most wrong."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax import data
from vit_jax.data import Preprocess, Source
from vit_jax.errors import InputError
from vit_jax.evaluate.analysis.calibration import calibration
from vit_jax.evaluate.analysis.records import Records, compile_records
from vit_jax.evaluate.classification import ClassificationEvaluation
from vit_jax.evaluate.evaluation import EVALUATIONS, Context, Opened
from vit_jax.models import naflex
from vit_jax.tasks.classification import Classification

WORST = 20  # errors that results name
_AT_ONCE = 32  # pictures that are read at a time


@dataclasses.dataclass(frozen=True)
class Details:
    """What a classifier says about a data set.

    Attributes:
      records: the examples that count.
      names: class names of the model by number, each once.
      source: the data set.
      pp: preprocessing of its images.
    """

    records: Records
    names: Sequence[str]
    source: Source
    pp: Preprocess

    @property
    def matrix(self) -> np.ndarray:
        """Number of images by class and predicted class, int64 (classes, classes)."""
        records = self.records
        return confusion_matrix(records.label, records.predicted, len(self.names))

    def results(self, worst: int = WORST) -> dict[str, Any]:
        """All results: those of `results`, `Records.means`, `calibration`, and the errors."""
        records = self.records
        return dict(
            records.means(),
            **calibration(records.probability, records.predicted == records.label),
            **{
                name: value
                for name, value in results(self.matrix, self.names).items()
                if name not in ("top1", "examples")
            },
            worst=self.worst(worst),
        )

    def worst(self, count: int = WORST) -> list[dict[str, Any]]:
        """The wrongly classified images with the highest losses, the worst first.

        Returns:
          For each `image` (its path or number), `index` in the source, `label`, `predicted`,
          `probability` of the predicted class, `label_probability`, and `loss`.
        """
        records = self.records
        found = []
        for place in records.worst(count):
            index = int(records.index[place])
            values = {
                name: float(getattr(records, name)[place])
                for name in ("probability", "label_probability", "loss")
            }
            found.append(
                dict(
                    image=self.source.describe(index),
                    index=index,
                    label=self.names[records.label[place]],
                    predicted=self.names[records.predicted[place]],
                    **{name: v if math.isfinite(v) else None for name, v in values.items()},
                )
            )
        return found

    def pictures(self, errors: Sequence[dict[str, Any]]) -> Iterator[np.ndarray]:
        """The images of errors as the model takes them, uint8 (h, w, 3), read again.

        Args:
          errors: from `worst`.

        Raises:
          InputError: an image that cannot be read any more.
        """
        examples = np.array([error["index"] for error in errors], np.int64)
        if not len(examples):
            return
        for batch in data.eval_batches(
            self.source, self.pp, batch_size=min(len(examples), _AT_ONCE), examples=examples
        ):
            for image in batch["image"][batch["mask"]]:
                yield naflex.unpacked_image(image) if self.pp.naflex else image


@EVALUATIONS.register("confusion")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfusionEvaluation(ClassificationEvaluation):
    """Top-1, top-5 and loss; the accuracy of each class; which are confused; calibration."""

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`; for data with one class an image."""
        classify = self.classify(context)

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            return classify(params, after_batch).results()

        return Opened(("top1", "top5", "loss"), run)

    def classify(self, context: Context) -> Callable[[Any, Callable[[], None]], Details]:
        """Opens the data and compiles the model.

        Returns:
          (parameters on the devices, function called after each batch) -> `Details`, the same on
          every process.

        Raises:
          InputError: a model without classes, or data that do not fit it.
        """
        if not isinstance(context.task, Classification):
            raise InputError(f"{context.where}: the model has no classes to confuse")
        source = context.open_source(self.source, self.split)
        prepared = self.prepare(context, source)
        match, width = prepared.match, context.task.num_classes
        assert match is not None
        if source.num_classes > width and match.trivial:
            raise InputError(
                f"{context.where}: {source.name} has labels of {source.num_classes} classes, "
                f"the model has {width}"
            )
        records = compile_records(context, prepared.views, prepared.batch_size)
        names = unique_names(context.labels, width)

        def run(params: Any, after_batch: Callable[[], None]) -> Details:
            counted = context.counted(source.size, prepared.batch_size, after_batch)
            found = records(params, match(prepared.batches(context), False), counted)
            return Details(found, names, source, prepared.pp)

        return run


def unique_names(labels: Sequence[str], width: int) -> list[str]:
    """A name for each class: its number where it has none, and behind a name of several."""
    names = [labels[i] if i < len(labels) else str(i) for i in range(width)]
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [f"{name} ({i})" if seen[name] > 1 else name for i, name in enumerate(names)]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """The number of images by class and predicted class, int64 (classes, classes).

    Args:
      labels: classes, int (n,).
      predicted: predicted classes, int (n,).
      classes: number of classes.
    """
    pairs = np.asarray(labels, np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def results(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Results of a confusion matrix.

    Args:
      matrix: images by class and predicted class.
      names: class names by number.

    Returns:
      `top1`; `examples`; `class_accuracy` by name, None for a class without images;
      `class_examples` by name; `confused`: pairs of classes with `label`, `predicted`, `count`
      and `share` of the images of `label`, the most frequent first; `confusion`: the matrix as
      lists.
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
        class_examples={name: int(total) for name, total in zip(names, totals)},
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

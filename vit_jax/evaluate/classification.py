"""The task's metrics (top-1, top-5, loss) over a data set, with every example counted once."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax import data
from vit_jax.data import Preprocess, Source
from vit_jax.errors import InputError
from vit_jax.evaluate.classes import Match, match_classes
from vit_jax.evaluate.evaluation import (
    EVALUATIONS,
    Context,
    Evaluation,
    Opened,
    check_normalization,
    create_views,
    run_batches,
)
from vit_jax.evaluate.features import compile_outputs
from vit_jax.evaluate.precision import average_precisions
from vit_jax.options import option
from vit_jax.parallel.engines import Engine
from vit_jax.tasks.evaluation import make_eval_step
from vit_jax.tasks.losses import create_loss, top_k_correct
from vit_jax.tasks.tta import MEANING, TTA, Views

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A data set as a model reads it.

    Attributes:
      source: the data set.
      pp: preprocessing of its images.
      views: views over which predictions are averaged; None: the image alone.
      match: the model's class of each of its classes; None: the task has no classes.
      batch_size: size of the global batch.
      left_out: what happens to images that cannot be read.
    """

    source: Source
    pp: Preprocess
    views: Views | None
    match: Match | None
    batch_size: int
    left_out: data.LeftOut

    def batches(self, context: Context) -> Iterator[dict[str, np.ndarray]]:
        """This process's part of each batch, with labels in the data set's numbers."""
        return data.eval_batches(
            self.source,
            self.pp,
            batch_size=self.batch_size,
            rows=context.engine.rows(self.batch_size),
            threads=context.data.threads,
            left_out=self.left_out,
        )


@EVALUATIONS.register("classification")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationEvaluation(Evaluation):
    """The task's metrics on one split; without pp, preprocessed as in training but not randomly."""

    split: str = option(
        "test", 'split to evaluate on, in tfds syntax: "test", "train[90%:]"', effect="course"
    )

    tta: str = option("none", MEANING, effect="course", choices=TTA)

    def open(self, context: Context) -> Opened:
        """See `Evaluation.open`."""
        task, engine = context.task, context.engine
        source = context.open_source(self.source, self.split, multi_label=context.data.multi_label)
        classes = task.num_classes
        if classes is not None and source.num_classes > classes:
            raise InputError(
                f"{context.where}: {source.name} has labels of {source.num_classes} classes, "
                f"the model has {classes}"
            )
        prepared = self.prepare(context, source)
        views, match, batch_size = prepared.views, prepared.match, prepared.batch_size
        eval_step = context.eval_step
        if views:
            eval_step = engine.compile_eval(functools.partial(make_eval_step, task, views=views))

        if source.multi_label and match:
            return self._open_sets(context, source, prepared.pp, match, batch_size, views)

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, float]:
            after_batch = context.counted(source.size, batch_size, after_batch)
            batches = prepared.batches(context)
            matched = match(batches, source.multi_label) if match else batches
            fields = task.batch_fields
            return mean_metrics(eval_step, engine, params, matched, batch_size, fields, after_batch)

        return Opened(task.metrics, run)

    def prepare(self, context: Context, source: Source) -> Prepared:
        """What is needed to read the images of a source for a model.

        Raises:
          InputError: preprocessing that does not fit the model.
        """
        pp = data.parse(self.pp) if self.pp else context.pp
        check_normalization(context, pp)
        size, wanted = pp.output_size(source.image_size), context.model_config.input_size
        if size != wanted:
            raise InputError(
                f"{context.where}.pp yields images of {size}, the model takes {wanted}"
            )
        views, pp = create_views(context, self.tta, pp)
        classes = context.task.num_classes
        match = None if classes is None else match_classes(source, context.labels, classes)
        if match and match.line:
            log.info("%s", match.line)
        batch_size = context.whole_batch_size(self.batch_size)
        left_out = data.LeftOut(source, context.data.max_unreadable)
        return Prepared(source, pp, views, match, batch_size, left_out)

    def _open_sets(
        self,
        context: Context,
        source: Source,
        pp: Preprocess,
        match: Match,
        batch_size: int,
        views: Views | None,
    ) -> Opened:
        """Sets of classes: the logits of all images are needed, to rank the images by each class.

        Results also have `mean_average_precision` and, by class, `average_precision`.
        """
        task = context.task
        outputs = compile_outputs(
            context.engine,
            context.model_config,
            pp,
            batch_size=batch_size,
            reduce=lambda logits: logits.astype(jnp.float32),
            threads=context.data.threads,
            views=views,
        )
        loss = create_loss(task.setting.config.loss)

        def run(params: Any, after_batch: Callable[[], None]) -> dict[str, Any]:
            counted = context.counted(source.size, outputs.batch_size, after_batch)
            logits, labels = outputs(params, source, None, counted)
            labels = match.widened(labels)
            rows = dict(loss=loss(jnp.asarray(logits), jnp.asarray(labels)))
            for k in (1, 5):
                rows[f"top{k}"] = top_k_correct(jnp.asarray(logits), jnp.asarray(labels), k)
            means = {name: float(np.mean(row)) for name, row in rows.items()}
            precisions = average_precisions(logits, labels, context.labels)
            return dict(means, examples=len(labels), **precisions)

        return Opened((*task.metrics, "mean_average_precision"), run)


def mean_metrics(
    eval_step: Callable,
    engine: Engine,
    params: Any,
    batches: Iterable[dict],
    batch_size: int,
    fields: Sequence[str] = ("image", "label"),
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Runs a compiled evaluation step over all batches.

    Args:
      eval_step: (params, batch) -> sums by name, and `examples`.
      engine: engine that places batches.
      params: parameters of the model.
      batches: this process's part of each global batch, from `data.eval_batches`.
      batch_size: size of the global batch.
      fields: parts of a batch that the step takes, besides `mask`.
      after_batch: function called after each batch.

    Returns:
      The mean over examples of each sum, such as `top1`, `top5` and `loss`; and `examples`,
      their number.
    """

    def place(batch: dict) -> Any:
        return engine.put_batch({name: batch[name] for name in (*fields, "mask")}, batch_size)

    totals: dict[str, float] = {}
    for sums in run_batches(eval_step, params, batches, place, after_batch):
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    examples = totals.pop("examples", 0.0)
    means = {name: total / max(examples, 1) for name, total in totals.items()}
    return dict(means, examples=int(examples))

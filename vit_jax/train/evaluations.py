"""The evaluations of a run, opened before its first step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from vit_jax.data import Preprocess, Source
from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.evaluation import Context, Opened, create_evaluation
from vit_jax.tasks.evaluation import make_eval_step
from vit_jax.train.run import Run


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """One entry of config.evals, ready to be run.

    Attributes:
      name: name of the entry; metrics are called eval/<name>/<metric>.
      use_ema: whether averaged parameters are evaluated.
      opened: the evaluation with its data.
    """

    name: str
    use_ema: bool
    opened: Opened

    def run(self, params: Any, after_batch: Callable[[], None]) -> dict[str, float]:
        """Runs the evaluation; returns the results that are numbers."""
        found = self.opened.run(params, after_batch)
        return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def open_evaluations(run: Run, source: Source, pp: Preprocess) -> list[RunEvaluation]:
    """Opens the entries of config.evals; wrong ones are refused before training.

    Args:
      run: the run.
      source: training data of the run.
      pp: preprocessing of the training data.

    Raises:
      InputError: an entry's data cannot be opened, or it asks for averaged parameters, which
        the run does not keep.
    """
    context = Context(
        where="",
        engine=run.engine,
        task=run.task,
        eval_step=run.engine.compile_eval(functools.partial(make_eval_step, run.task)),
        pp=pp.deterministic(),
        labels=source.label_names,
        data=run.config.data,
        batch_size=run.config.batch_size,
        training=source,
    )
    found = []
    for name, entry in sorted(run.config.evals.items()):
        where = f"config.evals.{name}"
        evaluation = create_evaluation(entry, where)
        if evaluation.use_ema and not run.config.optimizer.ema_decay:
            raise InputError(f"{where}.use_ema needs config.optimizer.ema_decay above 0")
        opened = evaluation.open(dataclasses.replace(context, where=where))
        found.append(RunEvaluation(name, evaluation.use_ema, opened))
    best = run.config.checkpoint.best
    known = [f"eval/{one.name}/{metric}" for one in found for metric in one.opened.metrics]
    if best and best not in known:
        raise unknown("config.checkpoint.best", best, known or ["nothing: config.evals is empty"])
    return found

"""The evaluations of a run, opened before its first step."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

from vit_jax.data import Preprocess, Source
from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.evaluation import Context, Opened, create_evaluation
from vit_jax.tasks.evaluation import make_eval_step
from vit_jax.train.run import Run
from vit_jax.train.state import TrainState

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """One entry of config.evals, ready to be run.

    Attributes:
      name: name of the entry; metrics are called eval/<name>/<metric>.
      use_ema: whether averaged parameters are evaluated, instead of the plain ones.
      also_ema: whether they are evaluated as well; their metrics are called
        eval/<name>/ema/<metric>.
      opened: the evaluation with its data.
      usable: function from the run's parameters to those that the model takes.
    """

    name: str
    use_ema: bool
    also_ema: bool
    opened: Opened
    usable: Callable[[Any], Any]

    @property
    def metrics(self) -> list[str]:
        """Names of results by which checkpoints may be compared."""
        parts = ("", "ema/") if self.also_ema else ("",)
        return [
            f"eval/{self.name}/{part}{metric}" for part in parts for metric in self.opened.metrics
        ]

    def run(
        self, step: int, state: TrainState, after_batch: Callable[[], None]
    ) -> dict[str, float]:
        """Runs the evaluation, and logs the results that are numbers.

        Args:
          step: number of steps that led to `state`.
          state: state of the run.
          after_batch: function called after each batch.

        Returns:
          Those results, named eval/<name>/<metric>.
        """
        chosen = {"": state.ema if self.use_ema else state.params}
        if self.also_ema:
            chosen["ema/"] = state.ema
        found = {
            part + name: value
            for part, params in chosen.items()
            for name, value in self.opened.run(self.usable(params), after_batch).items()
            if isinstance(value, (int, float))
        }
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
        log.info("step %d: %s %s", step, self.name, shown)
        return {f"eval/{self.name}/{key}": value for key, value in found.items()}


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
        for option in ("use_ema", "also_ema"):
            if entry.get(option) and not run.config.optimizer.ema_decay:
                raise InputError(f"{where}.{option} needs config.optimizer.ema_decay above 0")
        if evaluation.use_ema and evaluation.also_ema:
            raise InputError(
                f"{where}.also_ema evaluates plain and averaged parameters; leave use_ema False"
            )
        opened = evaluation.open(dataclasses.replace(context, where=where))
        averages = (evaluation.use_ema, evaluation.also_ema)
        found.append(RunEvaluation(name, *averages, opened, run.usable))
    best = run.config.checkpoint.best
    known = [metric for one in found for metric in one.metrics]
    if best and best not in known:
        raise unknown("config.checkpoint.best", best, known or ["nothing: config.evals is empty"])
    return found

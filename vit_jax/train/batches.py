"""The data of a run: training batches on the devices, evaluations ready to go."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.classification import classify, renumbered
from vit_jax.evaluate.features import (
    compile_outputs,
    headless_config,
    headless_params,
    protocol_pp,
)
from vit_jax.evaluate.fewshot import few_shot
from vit_jax.parallel.agree import total
from vit_jax.parallel.mesh import check_batch_size
from vit_jax.tasks.evaluation import make_eval_step
from vit_jax.train.prefetch import prefetch
from vit_jax.train.resident import resident_batches
from vit_jax.train.run import Dataset, Run


def open_training_data(config: ConfigDict) -> tuple[Any, Any, Dataset]:
    """The training source, its preprocessing, and what the run needs to know of both.

    Raises:
      InputError: they cannot be opened or parsed.
    """
    options = config.data
    source = data.open_source(
        options.source,
        options.split,
        data_dir=options.data_dir,
        cache_dir=options.cache_dir,
        multi_label=options.multi_label,
        sequential=options.sequential,
    )
    pp = data.parse(options.pp)
    size = pp.output_size(source.image_size)
    return source, pp, Dataset(source.size, source.num_classes, size, pp.mean, pp.std)


class TrainingBatches(Iterator[dict[str, jax.Array]]):
    """Global batches on the devices."""

    def __init__(self, run: Run, source: Any, pp: Any, *, start_step: int, unreadable: int = 0):
        """Starts reading ahead.

        Args:
          run: the run.
          source, pp: its training data and their preprocessing.
          start_step: of the first batch.
          unreadable: examples that earlier starts could not read.
        """
        config, engine = run.config, run.engine
        order = dict(
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start_step,
            shuffle=config.data.shuffle,
        )
        self._unreadable_before, self._unreadable = unreadable, 0
        if config.data.resident:
            batches = resident_batches(source, pp, engine, **order)
            self._batches = ((batch, 0) for batch in batches)
            return
        host = data.train_batches(
            source,
            pp,
            **order,
            rows=engine.rows(config.batch_size),
            threads=config.data.threads,
            prefetch=config.data.prefetch,
            max_unreadable=config.data.max_unreadable,
            leave_flip=jax.default_backend() != "cpu",
        )

        def place(batch: dict[str, np.ndarray]) -> tuple[dict[str, jax.Array], int]:
            fields = (*run.task.batch_fields, "flip")
            arrays = {name: batch[name] for name in fields if name in batch}
            return engine.put_batch(arrays, config.batch_size), host.skipped

        self._batches = prefetch(host, place, depth=config.data.prefetch)

    def __next__(self) -> dict[str, jax.Array]:
        batch, self._unreadable = next(self._batches)
        return batch

    @property
    def unreadable(self) -> jax.Array | int:
        """How many examples could not be read up to the last batch; others took their places.

        Those of all processes and of all starts of the run; ask on all at the same step.
        """
        return self._unreadable_before + total(self._unreadable)

    def close(self) -> None:
        """Stops reading ahead."""
        self._batches.close()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One entry of config.evals or config.fewshot, ready to be evaluated."""

    name: str
    metrics: tuple[str, ...]  # what `run` gives that can be compared
    use_ema: bool
    # Of the parameters; the second argument is called after each batch.
    run: Callable[[Any, Callable[[], None]], dict[str, float]]


def open_evaluations(run: Run, source: Any, train_pp: Any) -> list[Evaluation]:
    """The entries of config.evals and config.fewshot; wrong ones are refused before training.

    Args:
      run: the run.
      source: its training data.
      train_pp: their preprocessing.

    Raises:
      InputError: as for training data, or EMA is asked for and not kept.
    """
    step = run.engine.compile_eval(functools.partial(make_eval_step, run.task))
    evaluations = [
        _open_evaluation(run, step, source.label_names, train_pp, name, entry)
        for name, entry in sorted(run.config.evals.items())
    ]
    evaluations += [
        _open_fewshot(run, train_pp, name, entry)
        for name, entry in sorted(run.config.fewshot.items())
    ]
    best = run.config.checkpoint.best
    known = [f"eval/{found.name}/{metric}" for found in evaluations for metric in found.metrics]
    if best and best not in known:
        raise unknown("config.checkpoint.best", best, known or ["nothing: config.evals is empty"])
    return evaluations


def _open_evaluation(
    run: Run,
    step: Callable,
    labels: Sequence[str],
    train_pp: Any,
    name: str,
    entry: ConfigDict,
) -> Evaluation:
    config, engine = run.config, run.engine
    batch_size = _check_evaluation(run, f"config.evals.{name}", entry)
    source = data.open_source(
        entry.source or config.data.source,
        entry.split,
        data_dir=config.data.data_dir,
        cache_dir=config.data.cache_dir,
        multi_label=config.data.multi_label,
    )
    classes = run.task.num_classes
    if classes is not None and source.num_classes > classes:
        raise InputError(
            f"config.evals.{name}: {source.name} has labels of {source.num_classes} classes, "
            f"the model has {classes}"
        )
    if classes is None:
        labels = ()
    pp = data.parse(entry.pp) if entry.pp else train_pp.deterministic()
    _check_normalization(f"config.evals.{name}", pp, train_pp)
    size = pp.output_size(source.image_size)
    if size != run.model_config.image_size:
        raise InputError(
            f"config.evals.{name}.pp yields images of {size}, "
            f"the model takes {run.model_config.image_size}"
        )

    def evaluate(params: Any, after_batch: Callable[[], None]) -> dict[str, float]:
        batches = data.eval_batches(
            source,
            pp,
            batch_size=batch_size,
            rows=engine.rows(batch_size),
            threads=config.data.threads,
        )
        watched = _watched(renumbered(batches, source, labels), after_batch)
        return classify(step, engine, params, watched, batch_size, run.task.batch_fields)

    return Evaluation(name, run.task.metrics, entry.use_ema, evaluate)


def _watched(batches: Iterator[Any], after_batch: Callable[[], None]) -> Iterator[Any]:
    for batch in batches:
        yield batch
        after_batch()


def _check_evaluation(run: Run, where: str, entry: ConfigDict) -> int:
    """Checks what all evaluations share; returns the batch size."""
    if entry.use_ema and not run.config.optimizer.ema_decay:
        raise InputError(f"{where}.use_ema wants config.optimizer.ema_decay above 0")
    batch_size = entry.batch_size or run.config.batch_size
    check_batch_size(batch_size, run.engine.batch_shards, name=f"{where}.batch_size")
    return batch_size


def _check_normalization(where: str, pp: Any, train_pp: Any) -> None:
    if (pp.mean, pp.std) != (train_pp.mean, train_pp.std):
        raise InputError(
            f"{where}.pp normalises pixels differently from config.data.pp; make "
            "both end in the same value_range or normalize"
        )


def _open_fewshot(run: Run, train_pp: Any, name: str, entry: ConfigDict) -> Evaluation:
    """A few-shot linear evaluation: metrics "1shot", "5shot", ... are means over seeds."""
    config, where = run.config, f"config.fewshot.{name}"
    batch_size = _check_evaluation(run, where, entry)
    model_config = headless_config(run.model_config)
    pp = data.parse(entry.pp) if entry.pp else protocol_pp(model_config.image_size, train_pp)
    _check_normalization(where, pp, train_pp)
    train, test = (
        data.open_source(
            entry.source or config.data.source,
            split,
            data_dir=config.data.data_dir,
            cache_dir=config.data.cache_dir,
        )
        for split in (entry.train, entry.test)
    )
    chosen = few_shot(train, test, shots=entry.shots, seeds=entry.seeds, l2=entry.l2)
    outputs = compile_outputs(
        run.engine, model_config, pp, batch_size=batch_size, threads=config.data.threads
    )

    def evaluate(params: Any, after_batch: Callable[[], None]) -> dict[str, float]:
        frozen = headless_params(params, model_config)
        features = functools.partial(outputs, frozen, after_batch=after_batch)
        results = chosen.run(features)
        return {f"{shots}shot": found["top1"] for shots, found in results.items()}

    metrics = tuple(f"{shots}shot" for shots in chosen.shots)
    return Evaluation(f"fewshot/{name}", metrics, entry.use_ema, evaluate)

"""Evaluation of stored weights, without a training run."""

import functools
import logging
from typing import Any

import numpy as np

from vit_jax import config as configs
from vit_jax import data, models
from vit_jax.checkpoint.load import ModelInfo, read
from vit_jax.errors import InputError
from vit_jax.evaluate.classify import classify
from vit_jax.evaluate.features import replicate
from vit_jax.parallel.engines import create_engine
from vit_jax.train.step import make_eval_step
from vit_jax.train.tasks import create_task

log = logging.getLogger(__name__)


def evaluate_checkpoint(
    path: str,
    *,
    source: str | None = None,
    split: str | None = None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool = False,
) -> dict[str, Any]:
    """Accuracy and loss of a checkpoint on all devices of all processes.

    Args:
      path: workdir, checkpoint or weight file.
      source, split: data; None: the first evaluation of the run's config.
      pp: preprocessing; None: the checkpoint's.
      data_dir: where tfds looks.
      batch_size: over all devices; rounded up to what they divide.
      use_ema: use averaged parameters.

    Returns:
      `top1`, `top5`, `loss`, `examples`, `source`, `split`.

    Raises:
      InputError: nothing to evaluate there, or data that do not fit the model.
    """
    params, info = read(path, use_ema=use_ema)
    source, split = _which_data(info, source, split)
    config = configs.default()
    if info.config:
        config.seed = info.config["seed"]
        config.loss.update(info.config["loss"])
        config.data.multi_label = info.config["data"]["multi_label"]
    opened = data.open_source(source, split, data_dir=data_dir, multi_label=config.data.multi_label)
    model_config = models.model_config(info.name, **info.options)
    preprocess = data.parse(pp or info.pp)
    graphdef, _ = models.abstract(functools.partial(models.build_model, model_config))
    task = create_task(graphdef, model_config, preprocess.mean, preprocess.std, config)
    if task.num_classes is not None and opened.num_classes > task.num_classes:
        raise InputError(f"{source} has {opened.num_classes} classes, the model {task.num_classes}")
    engine = create_engine(config.parallel)
    shards = engine.batch_shards
    batch_size = -(-batch_size // shards) * shards
    step = engine.compile_eval(functools.partial(make_eval_step, task))
    batches = data.eval_batches(
        opened, preprocess, batch_size=batch_size, rows=engine.rows(batch_size)
    )
    numbers = _numbers_by_name(info, opened)
    if numbers is not None and not config.data.multi_label:
        batches = (dict(batch, label=numbers[batch["label"]]) for batch in batches)
    result = classify(step, engine, replicate(engine, params), batches, batch_size)
    return dict(result, source=source, split=split)


def _numbers_by_name(info: ModelInfo, source: data.Source) -> np.ndarray | None:
    """The model's number for each class of the data; None where the data's own numbers count.

    Class names decide if the model knows all of the data's: folders are numbered by alphabet.
    """
    names = list(source.label_names)
    if not info.labels or names == list(info.labels[: len(names)]):
        return None
    numbers = {name: number for number, name in enumerate(info.labels)}
    if len(numbers) < len(info.labels) or not numbers.keys() >= set(names):
        log.info("classes of %s have other names than the model's: numbers count", source.name)
        return None
    return np.array([numbers[name] for name in names])


def _which_data(info: ModelInfo, source: str | None, split: str | None) -> tuple[str, str]:
    """Source and split: what was asked for, else the run's first evaluation."""
    evals = info.config.get("evals", {})
    if source is None and evals:
        entry = evals[min(evals)]
        source = entry["source"] or info.config["data"]["source"]
        split = split or entry["split"]
    if source is None:
        raise InputError(f"{info.source} names no evaluation data; give --source and --split")
    return source, split or "test"

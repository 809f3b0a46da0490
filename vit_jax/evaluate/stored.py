"""Evaluation of stored weights, without a training run."""

import functools
from typing import Any

from vit_jax import config as configs
from vit_jax import data, models
from vit_jax.checkpoint.load import read, run_config
from vit_jax.errors import InputError
from vit_jax.evaluate.classification import classify, renumbered
from vit_jax.evaluate.features import replicate
from vit_jax.parallel.engines import create_engine
from vit_jax.tasks import bind, create_task
from vit_jax.tasks.evaluation import make_eval_step


def evaluate_checkpoint(
    path: str,
    *,
    source: str | None = None,
    split: str | None = None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool | None = None,
) -> dict[str, Any]:
    """Accuracy and loss of a checkpoint on all devices of all processes.

    Args:
      path: workdir, checkpoint or weight file.
      source, split: data; None: the first evaluation of the run's config, which then also
        says what else is not given.
      pp: preprocessing; None: the checkpoint's.
      data_dir: where tfds looks; "": as the run does, or its default.
      batch_size: over all devices; rounded up to what they divide.
      use_ema: use averaged parameters; None: as that evaluation does.

    Returns:
      `top1`, `top5`, `loss`, `examples`, `source`, `split`.

    Raises:
      InputError: nothing to evaluate there, or data that do not fit the model.
    """
    ran = run_config(path)
    asked = dict(source=source, split=split, use_ema=use_ema)
    entry = _complete(ran, asked)
    params, info = read(path, use_ema=entry["use_ema"], task_params=True)
    if entry["source"] is None:
        raise InputError(f"{info.source} names no evaluation data; give --source and --split")
    source, split = entry["source"], entry["split"]
    config = configs.default()
    if ran:
        config.seed = ran["seed"]
        config.task = ran["task"]
        config.loss.update(ran["loss"])
        config.data.multi_label = ran["data"]["multi_label"]
        data_dir = data_dir or ran["data"]["data_dir"]
    opened = data.open_source(source, split, data_dir=data_dir, multi_label=config.data.multi_label)
    model_config = models.model_config(info.name, **info.options)
    preprocess = data.parse(pp or info.pp)
    task = create_task(config)
    graphdef, _ = models.abstract(functools.partial(task.build_model, model_config))
    task = bind(task, config, model_config, graphdef, preprocess.mean, preprocess.std)
    if task.num_classes is not None and opened.num_classes > task.num_classes:
        raise InputError(f"{source} has {opened.num_classes} classes, the model {task.num_classes}")
    engine = create_engine(config.parallel)
    shards = engine.batch_shards
    batch_size = -(-batch_size // shards) * shards
    step = engine.compile_eval(functools.partial(make_eval_step, task))
    batches = data.eval_batches(
        opened, preprocess, batch_size=batch_size, rows=engine.rows(batch_size)
    )
    batches = renumbered(batches, opened, info.labels)
    params = replicate(engine, params)
    result = classify(step, engine, params, batches, batch_size, task.batch_fields)
    return dict(result, source=source, split=split)


def _complete(ran: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked for; without a source the run's first evaluation says the rest."""
    entry = dict(source=None, split="test", use_ema=False)
    if asked["source"] is None and (evals := ran.get("evals")):
        entry = evals[min(evals)]
        entry = dict(entry, source=entry["source"] or ran["data"]["source"])
    return entry | {name: value for name, value in asked.items() if value is not None}

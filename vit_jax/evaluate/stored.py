"""Evaluation of stored weights, without a training run."""

import dataclasses
import functools
import logging
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vit_jax import data, models
from vit_jax.checkpoint.load import read_weights, run_config
from vit_jax.data.options import DataOptions
from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.analysis.confusion import WORST, ConfusionEvaluation, Details
from vit_jax.evaluate.classification import ClassificationEvaluation
from vit_jax.evaluate.evaluation import EVALUATIONS, Context, Evaluation, Watch
from vit_jax.files import expand
from vit_jax.options import check_section, fill, section
from vit_jax.parallel import same
from vit_jax.parallel.engines import Engine, create_engine
from vit_jax.parallel.mesh import ParallelOptions
from vit_jax.schema import argument
from vit_jax.tasks import bind, create_task
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.evaluation import make_eval_step
from vit_jax.tasks.options import task_options
from vit_jax.text import some
from vit_jax.weights import Weights

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A stored model on all devices, ready to be evaluated.

    Attributes:
      context: context with which evaluations are opened.
      params: parameters on the devices.
      info: information about the weights.
    """

    context: Context
    params: Any
    info: Weights  # without the arrays

    def run(self, evaluation: Evaluation) -> dict[str, Any]:
        """Runs an evaluation; returns its results.

        Raises:
          InputError: its data cannot be opened, or do not fit the model.
        """
        return evaluation.open(self.context).run(self.params, lambda: None)


def open_stored(
    path: str,
    *,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool = False,
    watch: Watch | None = None,
) -> Stored:
    """Loads a workdir, checkpoint or weight file onto all devices of all processes.

    Args:
      path: workdir, checkpoint or weight file.
      pp: preprocessing of images; None: that of the weights.
      data_dir: folder of tfds data; "": that of the run, or the default of tfds.
      batch_size: batch size over all devices; rounded up to a multiple of the batch shards.
      use_ema: whether to use averaged parameters.
      watch: shows how far evaluations are.

    Raises:
      InputError: nothing is stored there, another process finds something else, or the model
        does not fit its task.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; it must be at least 1")
    # Before devices are used, which waits for all processes.
    same.compare({f"the presence of {path}": expand(path).exists()})
    weights = read_weights(path, use_ema=use_ema, task_params=True)
    same.compare({f"the model of {path}": repr(weights.config), "preprocessing": weights.pp})
    params, info = weights.params, dataclasses.replace(weights, params={})
    if info.run_config:
        log.info("%s", info.report[0])  # which checkpoint it is
    config = task_options(info.run_config, info.config)
    data_options = section(DataOptions)
    fill(
        data_options, DataOptions, info.run_config.get("data", {}), "in the config of the run, data"
    )
    if data_dir:
        data_options.data_dir = data_dir
    own = data.parse(info.pp)
    preprocess = data.parse(pp) if pp else own
    if (preprocess.mean, preprocess.std) != (own.mean, own.std):
        raise InputError(
            f"{argument('pp')}={pp} normalises pixels differently from the weights of "
            f"{info.source}; end it in "
            f"{own.normalization or 'an operation on uint8 images, without normalisation'}"
        )
    model_config = info.config
    task = create_task(config)
    graphdef, _ = models.abstract(functools.partial(task.build_model, model_config))
    task = bind(task, config, model_config, graphdef, preprocess.mean, preprocess.std)
    engine = create_engine(section(ParallelOptions))
    context = Context(
        where="evaluation",
        engine=engine,
        task=task,
        eval_step=engine.compile_eval(functools.partial(make_eval_step, task)),
        pp=preprocess,
        labels=info.labels,
        data=data_options,
        batch_size=batch_size,
        watch=watch,
    )
    return Stored(context, replicate(engine, params), info)


def evaluate_checkpoint(
    path: str,
    *,
    source: str | None = None,
    split: str | None = None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool | None = None,
    tta: str | None = None,
) -> dict[str, Any]:
    """The metrics of a checkpoint's task on all devices of all processes.

    Args:
      path: workdir, checkpoint or weight file.
      source, split: data and split. Without `source`, the first evaluation of the run's config
        decides the source and everything else that is not given.
      pp: preprocessing; None: the checkpoint's.
      data_dir: folder of tfds data; "": that of the run, or the default of tfds.
      batch_size: batch size over all devices; rounded up to a multiple of the batch shards.
      use_ema: whether to use averaged parameters; None: as in that evaluation.
      tta: views over which predictions are averaged, see `tasks.tta`; None: as in that evaluation.

    Returns:
      Of a classifier `top1`, `top5` and `loss`; `examples`, `source`, `split`.

    Raises:
      InputError: nothing to evaluate there, or data that do not fit the model.
    """
    stored, options, tta = _open_own(path, source, split, pp, data_dir, batch_size, use_ema, tta)
    evaluation = ClassificationEvaluation(**options, tta=tta)
    check_section(ClassificationEvaluation, evaluation, stored.context.where)
    return dict(stored.run(evaluation), **options)


def evaluate_details(
    path: str,
    *,
    source: str | None = None,
    split: str | None = None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool | None = None,
    tta: str | None = None,
    worst: int = WORST,
    needed: str = "",
    watch: Watch | None = None,
) -> tuple[dict[str, Any], Details | None]:
    """The metrics of a checkpoint's task and, for one class an image, what lies behind them.

    All of it comes from one pass over the data.

    Args:
      path, source, split, pp, data_dir, batch_size, use_ema, tta: as `evaluate_checkpoint`.
      worst: number of errors that the results name.
      needed: what needs details, for a message; "": nothing does.
      watch: shows how far it is.

    Returns:
      The results of `evaluate_checkpoint`, with those of `ConfusionEvaluation` where an image has
      one class; and `Details`, or None for sets of classes and for tasks without classes.

    Raises:
      InputError: as `evaluate_checkpoint`, or details are needed where there are none.
    """
    stored, options, tta = _open_own(
        path, source, split, pp, data_dir, batch_size, use_ema, tta, watch
    )
    context = stored.context
    if isinstance(context.task, Classification) and not context.data.multi_label:
        evaluation = ConfusionEvaluation(**options, tta=tta)
        check_section(ConfusionEvaluation, evaluation, context.where)
        details = evaluation.classify(context)(stored.params, lambda: None)
        return dict(details.results(worst), **options), details
    if needed:
        has = "is of images with sets of classes" if context.data.multi_label else "has no classes"
        raise InputError(f"{needed} needs one class an image; {stored.info.source} {has}")
    plain = ClassificationEvaluation(**options, tta=tta)
    check_section(ClassificationEvaluation, plain, context.where)
    return dict(stored.run(plain), **options), None


def _open_own(
    path: str,
    source: str | None,
    split: str | None,
    pp: str | None,
    data_dir: str,
    batch_size: int,
    use_ema: bool | None,
    tta: str | None,
    watch: Watch | None = None,
) -> tuple[Stored, dict[str, Any], str]:
    """A stored model, the source and split of its evaluation, and the views at test time."""
    asked = dict(source=source, split=split, use_ema=use_ema, tta=tta)
    entry = own_entry(run_config(path), asked)
    stored = open_stored(
        path,
        pp=pp,
        data_dir=data_dir,
        batch_size=batch_size,
        use_ema=entry["use_ema"],
        watch=watch,
    )
    if stored.context.task.num_classes == 0:
        raise InputError(
            f"{stored.info.source} has no classes to evaluate; `vit_jax probe` and `vit_jax "
            "fewshot` test its features, `vit_jax finetune` trains it on classes"
        )
    if entry["source"] is None:
        raise InputError(
            f"{stored.info.source} names no evaluation data; give {argument('source')} and "
            f"{argument('split')}"
        )
    return stored, dict(source=entry["source"], split=entry["split"]), entry["tta"]


def evaluate_protocol(
    path: str,
    protocol: str,
    *,
    source: str | None,
    pp: str | None = None,
    data_dir: str = "",
    batch_size: int = 128,
    use_ema: bool | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates stored weights by a type of evaluation.

    Args:
      path: workdir, checkpoint or weight file.
      protocol: name in `EVALUATIONS`, such as real, v2 or objectnet.
      source: source of the images.
      pp: preprocessing; None: that of the weights.
      data_dir: folder of tfds data.
      batch_size: batch size over all devices.
      use_ema: whether to use averaged parameters.
      watch: shows how far it is.
      **options: options of that type; None: its default.

    Returns:
      The results, with `protocol` and `source`.

    Raises:
      InputError: an unknown type or option, or images that do not suit the model.
    """
    if protocol not in EVALUATIONS:
        raise unknown("protocol", protocol, EVALUATIONS)
    kind = EVALUATIONS[protocol]
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in known:
            raise unknown(f"option of protocol {protocol}; option", name, known)
    evaluation = kind(source=source, **given)
    check_section(kind, evaluation, "evaluation")
    if not source:
        raise InputError(f"protocol {protocol} needs {argument('source')}, where its images are")
    stored = open_stored(
        path,
        pp=pp,
        data_dir=data_dir,
        batch_size=batch_size,
        use_ema=bool(use_ema),
        watch=watch,
    )
    return dict(stored.run(evaluation), protocol=protocol, source=source)


def own_pair(
    info: Weights, source: str | None, train: str | None, test: str | None
) -> dict[str, str]:
    """The source and splits for a classifier on features: those given, else those of the run.

    Raises:
      InputError: nothing is given, and the weights belong to no run.
    """
    run = info.run_config
    if source is None:
        ran = run.get("data", {})
        if not ran.get("source"):
            wanted = some([argument(name) for name in ("source", "train", "test")])
            raise InputError(f"{info.source} names no data; give {wanted}")
        source, train = ran["source"], train or ran.get("split")
        evals = sorted(run.get("evals", {}).items())
        own = [entry for _, entry in evals if entry.get("source") is None]
        own = [entry for entry in own if "split" in entry]
        test = test or (own[0]["split"] if own else None)
    return dict(source=source, train=train or "train", test=test or "test")


def replicate(engine: Engine, params: Any) -> Any:
    """Puts loaded parameters on every device, including those of other processes."""
    # Through NumPy: JAX does not copy arrays of one device to another process's devices.
    return jax.device_put(jax.tree.map(np.asarray, params), engine.replicated)


def own_entry(ran: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The given values; without a source, the run's first evaluation provides the rest."""
    entry = dict(source=None, split="test", use_ema=False, tta="none")
    if asked["source"] is None and (evals := _plain(ran.get("evals", {}))):
        own = evals[min(evals)]
        source = own.get("source") or ran.get("data", {}).get("source")
        entry = entry | own | dict(source=source)
    return entry | {name: value for name, value in asked.items() if value is not None}


def predict_command(checkpoint: str, *, run: Mapping[str, Any]) -> str:
    """`vit_jax predict` by the parameters that a run evaluates: the plain or the averaged ones.

    Args:
      checkpoint: workdir, checkpoint or weight file.
      run: config of the run whose checkpoint it is; {} for a weight file, which holds one kind.
    """
    entry = own_entry(dict(run), dict.fromkeys(("source", "split", "use_ema")))
    averaged = ["--use-ema"] if entry["use_ema"] else []
    return shlex.join(["vit_jax", "predict", f"--checkpoint={checkpoint}", *averaged, "IMAGE"])


def _plain(evals: dict[str, Any]) -> dict[str, Any]:
    """The evaluations of type "classification"."""
    return {
        name: entry
        for name, entry in evals.items()
        if entry.get("type", "classification") == "classification"
    }

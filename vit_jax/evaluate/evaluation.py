"""The interface of evaluations, used by training and by the commands.

An entry of `config.evals` names its type; its other options are those of the class that is
registered under that type. Training opens it before the first step and runs it every
`config.eval_every`; a command opens the same object with a stored model.
"""

import abc
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.data import Preprocess, Source
from vit_jax.data.options import DataOptions
from vit_jax.errors import InputError, unknown
from vit_jax.options import check_section, option, section
from vit_jax.parallel.engines import Engine
from vit_jax.parallel.same import compare_data
from vit_jax.registry import Registry
from vit_jax.tasks import Task
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.losses import is_sigmoid
from vit_jax.tasks.tta import Views, views_of

log = logging.getLogger(__name__)


# The number of examples -> a function that is told how many more are done.
Watch = Callable[[int], Callable[[int], None]]


@dataclasses.dataclass(frozen=True)
class Context:
    """The model, devices and defaults with which an evaluation is opened.

    Attributes:
      where: name of the evaluation in messages, such as "config.evals.test".
      engine: engine that places parameters and batches.
      task: task of the model, bound to it.
      eval_step: compiled step: (parameters, batch) -> sums of the task's metrics.
      pp: preprocessing for evaluation, from the run or the checkpoint.
      labels: class names by number; () if unknown.
      data: options for reading images; its `source` is the default source.
      batch_size: default batch size over all devices.
      training: training data of the run, to notice images that are evaluated on as well; None
        outside of a run.
      watch: shows how far an evaluation is; None: nothing does.
    """

    where: str
    engine: Engine
    task: Task
    eval_step: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]
    pp: Preprocess
    labels: Sequence[str]
    data: DataOptions
    batch_size: int
    training: Source | None = None
    watch: Watch | None = None

    def counted(
        self, examples: int, batch_size: int, after_batch: Callable[[], None]
    ) -> Callable[[], None]:
        """A function to call after each batch: `after_batch`, and what `watch` shows.

        Args:
          examples: number of all examples.
          batch_size: size of the global batch.
          after_batch: function called after each batch.
        """
        if self.watch is None:
            return after_batch
        advance = self.watch(examples)
        sizes = iter([batch_size] * (examples // batch_size) + [examples % batch_size])

        def call() -> None:
            advance(next(sizes, 0))
            after_batch()

        return call

    @property
    def model_config(self) -> Any:
        """The configuration of the model."""
        return self.task.setting.model_config

    def open_source(
        self, source: str | None, split: str, *, multi_label: bool = False, tests: bool = True
    ) -> Source:
        """The examples of a split; `source` None: the default one.

        Where `tests`, training images among them are counted in a warning.

        Raises:
          InputError: they cannot be opened, or are others on another process.
        """
        opened = data.open_configured(
            self.data, source=source, split=split, multi_label=multi_label
        )
        compare_data(f"{self.where} ({split})", opened.fingerprint())
        if tests and self.training and (shared := self.training.shared(opened)):
            log.warning(
                "%s: %s of %s images of %s (%s) are training images too (%s); the result says "
                "nothing about new images. Choose splits without a common part, such as "
                "train[:80%%] and train[80%%:]",
                self.where, f"{shared:,}", f"{opened.size:,}", opened.name, split,
                self.training.split,
            )  # fmt: skip
        return opened

    def whole_batch_size(self, batch_size: int) -> int:
        """A batch size (0: the default), rounded up to a multiple of the engine's batch shards."""
        shards = self.engine.batch_shards
        return -(-(batch_size or self.batch_size) // shards) * shards


@dataclasses.dataclass(frozen=True)
class Opened:
    """An evaluation whose data are open.

    Attributes:
      metrics: names of results by which checkpoints may be compared.
      run: (parameters on the devices, function to call after each batch) -> results by name:
        numbers, and other values that commands show.
    """

    metrics: tuple[str, ...]
    run: Callable[[Any, Callable[[], None]], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(abc.ABC):
    """A protocol with its options, registered under its type in `EVALUATIONS`."""

    source: str | None = option(
        None, "images, written as data.source; None: the training source", effect="course"
    )
    pp: str = option(
        "",
        'preprocessing of images, written as data.pp; "": the default of this type of evaluation',
        effect="course",
    )
    batch_size: int = option(
        0,
        "examples per batch over all devices; 0: the training batch size",
        effect="course",
        at_least=0,
    )
    use_ema: bool = option(False, "evaluate the averaged (EMA, Polyak) parameters", effect="course")
    also_ema: bool = option(
        False,
        "evaluate the plain parameters and, as eval/NAME/ema/METRIC, the averaged ones too",
        effect="course",
    )

    @abc.abstractmethod
    def open(self, context: Context) -> Opened:
        """Opens the data and checks that they fit the model.

        Raises:
          InputError: the data do not fit the model or cannot be opened.
        """


EVALUATIONS: Registry[type[Evaluation]] = Registry(
    "type of evaluation",
    "vit_jax.evaluate.classification",
    "vit_jax.evaluate.imagenet",
    "vit_jax.evaluate.analysis.confusion",
    "vit_jax.evaluate.frozen.fewshot",
    "vit_jax.evaluate.frozen.probe",
    "vit_jax.evaluate.frozen.sweep",
)


def evaluation(type: str = "classification", **options: Any) -> ConfigDict:
    """One entry of `config.evals`: a data set that is evaluated during and after training.

    Args:
      type: name in `EVALUATIONS`.
      **options: options of that type.

    Raises:
      InputError: an unknown type or option.
    """
    entry = ConfigDict(dict(type=type))
    entry.update(section(EVALUATIONS[type]))
    with entry.unlocked():
        for name, value in options.items():
            if name not in entry:
                raise unknown(f"option of a {type} evaluation", name, entry.keys())
            entry[name] = value
    return entry


def create_evaluation(entry: ConfigDict, where: str) -> Evaluation:
    """The evaluation that an entry of `config.evals` describes.

    Raises:
      InputError: an unknown type or option, or a value out of range.
    """
    options = dict(entry)
    kind = EVALUATIONS[options.pop("type", "classification")]
    known = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in known:
            raise unknown(f"option {where}.{name}; option", name, known)
    created = kind(**options)
    check_section(kind, created, where)
    return created


def create_views(context: Context, tta: str, pp: Preprocess) -> tuple[Views | None, Preprocess]:
    """The views of `tta`, None for none, and the preprocessing that yields their images.

    Args:
      context: the model and its task.
      tta: one of `tasks.tta.TTA`.
      pp: preprocessing that yields images of the model's size.

    Raises:
      InputError: a task without classes, a model of images of any size, or no image to crop from.
    """
    if tta == "none":
        return None, pp
    where = f"{context.where}.tta {tta!r}"
    task, model_config = context.task, context.model_config
    if not isinstance(task, Classification):
        raise InputError(f"{where} needs a model of classes")
    sigmoid = is_sigmoid(task.setting.config.loss.name)
    return views_of(tta, model_config, sigmoid, pp, where)


def run_batches(
    step: Callable[[Any, dict[str, jax.Array]], Any],
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    after_batch: Callable[[], None] = lambda: None,
) -> Iterator[Any]:
    """Yields the results of a compiled step for all batches, on the host.

    A result is fetched while the device works on the next batch.

    Args:
      step: (params, batch) -> pytree of arrays.
      params: parameters on the devices.
      batches: this process's part of each global batch.
      place: function that puts a batch on the devices.
      after_batch: function called after each batch.
    """
    pending = None
    for batch in batches:
        found = step(params, place(batch))
        if pending is not None:
            yield jax.tree.map(np.asarray, pending)
        pending = found
        after_batch()
    if pending is not None:
        yield jax.tree.map(np.asarray, pending)


def check_normalization(context: Context, pp: Preprocess) -> None:
    """Refuses preprocessing that does not normalise pixels as the model expects."""
    if (pp.mean, pp.std) != (context.task.setting.mean, context.task.setting.std):
        raise InputError(
            f"{context.where}.pp normalises pixels differently from config.data.pp; make "
            "both end in the same value_range or normalize"
        )

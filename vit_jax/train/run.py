"""From a config to what the loop needs: data, model, engine, steps, state."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.durations import in_steps
from vit_jax.errors import InputError
from vit_jax.models.attention import sequence
from vit_jax.models.attention.fused.choice import check_device
from vit_jax.models.config import ModelConfig
from vit_jax.models.variants import canonical_name, identify
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.axes import SEQUENCE_AXIS
from vit_jax.parallel.distributed import suited_devices
from vit_jax.parallel.engines import CompiledStep, Engine, WithFrozen, create_engine
from vit_jax.parallel.mesh import check_batch_size
from vit_jax.tasks import Task, bind, create_task
from vit_jax.tasks.distill import Distillation
from vit_jax.tasks.losses import class_weights
from vit_jax.train.config import DEFAULT_MODEL
from vit_jax.train.distill.teacher import OpenTeacher, open_teacher
from vit_jax.train.optim import create_optimizer, differentiated, shortened
from vit_jax.train.progressive.stages import Stage, create_stages
from vit_jax.train.state import TrainState, create_state, init_params
from vit_jax.train.step import make_train_step
from vit_jax.weights.adapters.lora import add_lora, merge

log = logging.getLogger(__name__)

_merge = jax.jit(merge, static_argnums=1)
# Chooses the layout of a config: `vit_jax.plan.layouts.auto.arrange`, which is above this package.
Arrange = Callable[[ConfigDict, "Dataset"], ConfigDict]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Facts about the training data that the rest of a run needs."""

    size: int  # examples per epoch
    num_classes: int
    image_size: tuple[int, int] | None  # what preprocessing yields, where that is fixed
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    naflex: tuple[int, int] = (0, 0)  # patches of an image of any size, and their side in pixels
    class_counts: tuple[int, ...] | None = None  # examples of each class; needed by class weights
    labels: tuple[str, ...] = ()  # class names; () if unknown


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, ready to start: everything but the arrays."""

    config: ConfigDict
    total_steps: int
    model_name: str  # in the paper's spelling
    model_config: ModelConfig
    engine: Engine
    task: Task
    schedule: Callable[[jax.Array], jax.Array]
    create: Callable[[], TrainState]  # traceable
    abstract: TrainState  # shapes and shardings of what `create` returns
    train_step: CompiledStep  # (state, batch) -> (state, metrics)
    stages: tuple[Stage, ...] = ()  # the last has `task` and `train_step`
    trained: frozenset[str] | None = None  # paths of parameters that get a gradient; None: all
    teacher: OpenTeacher | None = None  # of task distill

    def with_teacher(self, stored: Mapping[str, str] | None) -> "Run":
        """The run with its teacher's parameters on the devices; see `OpenTeacher.placed`."""
        if self.teacher is None or not isinstance(self.train_step, WithFrozen):
            return self
        teacher = self.teacher.placed(self.engine, stored)
        step = self.train_step.given(teacher.params)
        stages = tuple(
            dataclasses.replace(stage, train_step=stage.train_step.given(teacher.params))
            for stage in self.stages
            if isinstance(stage.train_step, WithFrozen)
        )
        return dataclasses.replace(self, teacher=teacher, train_step=step, stages=stages)

    def train_flops(self, stage: Stage | None = None) -> int:
        """FLOPs of one image's forward and backward pass, at a stage's size or the final one.

        Gradients that no trained parameter needs, and recomputation by remat, are not counted.
        """
        task, config = (self.task, self.model_config)
        if stage is not None:
            task, config = stage.task, stage.model_config
        return task.train_flops(config, self.trained)

    def step_flops(self, stage: Stage) -> int:
        """FLOPs of one image in a training step; sharpness-aware minimisation takes two passes."""
        return (2 if self.config.optimizer.sam_rho else 1) * self.train_flops(stage)

    def usable(self, params: Any) -> Any:
        """The parameters that the task's model takes, with a LoRA adapter merged."""
        if not self.config.lora.rank:
            return params
        return _merge(params, self.config.lora.alpha)


def given_engine(config: ConfigDict, arrange: Arrange | None) -> Engine | None:
    """The engine of a config that gives its layout; None if `arrange` will choose it.

    Raises:
      InputError: wrong sizes of the mesh, or nothing that can choose them.
    """
    if config.parallel.layout != "auto":
        return _engine(config)
    if arrange is None:
        raise InputError(
            "config.parallel.layout=auto is chosen by the command `vit_jax train`; set "
            "config.parallel.layout to given and the sizes of config.parallel"
        )
    return None


def _engine(config: ConfigDict) -> Engine:
    return create_engine(config.parallel, suited_devices(config.parallel, config.batch_size))


def arranged(config: ConfigDict, dataset: Dataset, arrange: Arrange | None) -> ConfigDict:
    """The config with its layout chosen where it says auto."""
    return config if arrange is None else arrange(config, dataset)


def prepare(
    config: ConfigDict,
    dataset: Dataset,
    engine: Engine | None = None,
    start: ModelConfig | None = None,
) -> Run:
    """Checks a config as a whole and builds the run it describes; allocates nothing.

    Args:
      config: config of the run.
      dataset: facts about its training data.
      engine: engine of the run; None: the one named by `config.parallel`, on the devices present.
      start: configuration of the model whose weights the run starts from; see
        `start.starting_weights`.

    Raises:
      InputError: something in the config does not exist or does not fit the rest.
    """
    engine = engine or _engine(config)
    task = create_task(config)
    total_steps = _checked_length(config, dataset, engine, task)
    model_config = configure_model(config, dataset, task, start)
    _check_attention(model_config, engine)
    teacher = None
    if isinstance(task, Distillation):
        teacher = open_teacher(config, dataset.labels, model_config, engine)
        task = dataclasses.replace(task, teacher=teacher.model)
    create_model = functools.partial(task.build_model, model_config)
    graphdef, params = models.abstract(create_model)
    add_adapter = functools.partial(add_lora, options=config.lora, seed=config.seed)
    params = jax.eval_shape(add_adapter, params)
    sizes: dict[str, int] = dict(batch_size=config.batch_size, train_size=dataset.size)
    optimizer, schedule = create_optimizer(
        config.optimizer,
        params,
        total_steps,
        **sizes,
        pooled_norm=isinstance(model_config, ViTConfig) and model_config.pool_then_norm,
    )
    if text := shortened(config.optimizer, total_steps, **sizes):
        log.warning("%s", text)

    def create() -> TrainState:
        params = add_adapter(init_params(create_model, config.seed))
        return create_state(params, optimizer, ema=config.optimizer.ema_decay > 0)

    counts = dataset.class_counts or (1,) * dataset.num_classes
    task = bind(
        task,
        config,
        model_config,
        graphdef,
        dataset.mean,
        dataset.std,
        mix_steps=steps_of(config.mixup.off_after, "mixup.off_after", config, dataset),
        class_weights=class_weights(config.loss, counts),
    )
    abstract = engine.abstract(create)

    def compiled(task: Task) -> CompiledStep:
        make_step = functools.partial(make_train_step, task, optimizer, schedule)
        step = engine.compile_train(make_step, abstract, frozen=teacher is not None)
        return WithFrozen(step, teacher.abstract) if teacher else step

    train_step = compiled(task)
    return Run(
        config=config,
        total_steps=total_steps,
        model_name=canonical_name(config.model.name or identify(model_config)[0]),
        model_config=model_config,
        engine=engine,
        task=task,
        schedule=schedule,
        create=create,
        abstract=abstract,
        train_step=train_step,
        trained=differentiated(config.optimizer, params),
        stages=create_stages(config, task, train_step, total_steps, compiled),
        teacher=teacher,
    )


def _check_attention(model_config: ModelConfig, engine: Engine) -> None:
    """Raises InputError where devices or mesh do not suit the model's attention."""
    sequence.check_model(model_config, engine.mesh.shape.get(SEQUENCE_AXIS, 1))
    if isinstance(model_config, ViTConfig):
        check_device(model_config.attention, engine.mesh.devices.flat[0].platform)


def _checked_length(config: ConfigDict, dataset: Dataset, engine: Engine, task: Task) -> int:
    """The run's length in steps.

    Raises:
      InputError: there is none, or the batch cannot be divided as the config says.
    """
    check_batch_size(
        config.batch_size,
        engine.batch_shards,
        accumulate=config.parallel.accumulate,
        name="config.batch_size",
    )
    if task.whole_batch and config.parallel.accumulate > 1:
        raise InputError(
            f"config.task {config.task!r} compares all examples of a batch: set "
            "config.parallel.accumulate to 1"
        )
    total_steps = steps_of(config.total, "total", config, dataset)
    if not total_steps:
        raise InputError("config.total: set one of steps, epochs, examples to the run's length")
    return total_steps


def steps_of(entry: ConfigDict, name: str, config: ConfigDict, dataset: Dataset) -> int | None:
    """A duration of the config in steps of this run."""
    return in_steps(entry, name=name, batch_size=config.batch_size, train_size=dataset.size)


def intervals(config: ConfigDict, dataset: Dataset) -> dict[str, int | None]:
    """Evaluations, checkpoints and local copies of a run, in steps; None: not by steps."""
    durations = {
        "eval_every": config.eval_every,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.local_every": config.checkpoint.local_every,
    }
    return {name: steps_of(entry, name, config, dataset) for name, entry in durations.items()}


def configure_model(
    config: ConfigDict,
    dataset: Dataset,
    task: Task | None = None,
    start: ModelConfig | None = None,
) -> ModelConfig:
    """The model's configuration, completed from the starting weights, the data and the task.

    Raises:
      InputError: labels beyond the model's classes, or images that do not divide into patches.
    """
    task = task or create_task(config)
    options = dict(config.model)
    name = options.pop("name")
    options |= task.model_options(config, dataset.num_classes)
    length, patch = dataset.naflex
    if options["naflex"] is None:
        options["naflex"] = length
    if options["image_size"] is None and length:  # of the position embedding
        options["image_size"] = start.image_size if start else math.isqrt(length) * patch
    if options["image_size"] is None:
        options["image_size"] = dataset.image_size
    if options["image_size"] is None:
        raise InputError(
            "config.data.pp does not fix the size of images; end it with an operation that does, "
            "such as resize(224)"
        )
    if start is None:
        model_config = models.model_config(name or DEFAULT_MODEL, **options)
    else:
        model_config = models.derived_config(start, name, **options)
    if length and (model_config.naflex != length or model_config.patch != (patch, patch)):
        raise InputError(
            f"config.data.pp yields {length} patches of {patch}x{patch} pixels, the model takes "
            f"{model_config.naflex} of {model_config.patch[0]}x{model_config.patch[1]}; make them "
            "equal"
        )
    if model_config.naflex and not length:
        raise InputError(
            f"config.model.naflex is {model_config.naflex}: let config.data.pp end with "
            f"naflex({model_config.naflex}, {model_config.patch[0]}) before the normalisation"
        )
    if dataset.image_size and tuple(dataset.image_size) != tuple(model_config.input_size):
        raise InputError(
            f"config.data.pp yields images of {dataset.image_size}, "
            f"but config.model.image_size is {model_config.image_size}; make them equal"
        )
    if start is None or start.image_size != model_config.image_size:
        model_config.check_patches()
    return model_config

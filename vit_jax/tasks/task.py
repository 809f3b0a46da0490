"""The interface between a training step and the task that it trains on."""

import abc
import dataclasses
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.models import flops
from vit_jax.models.config import ModelConfig
from vit_jax.models.layers import shard_batch
from vit_jax.models.naflex import model_inputs
from vit_jax.registry import Registry
from vit_jax.spec import internal

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Setting:
    """The parts of a run that its task uses.

    Attributes:
      config: config of the run.
      model_config: configuration of the model.
      graphdef: static structure of the model.
      mean, std: normalisation of pixels / 255, from the preprocessing.
      mix_steps: number of steps with mixup; None: all.
      class_weights: weight of each class in the training loss; None: all are equal.
      step: number of the training step that is traced, from 0; None outside of one.
      fit: makes the parameters of this setting's model from those that are trained, where images
        have another size for a part of the run; None: they are the same.
    """

    config: ConfigDict
    model_config: Any
    graphdef: nnx.GraphDef
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mix_steps: int | None = None
    class_weights: tuple[float, ...] | None = None
    step: jax.Array | None = None
    fit: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A training task: its model, losses and metrics.

    A task is a frozen dataclass, registered under its name in `TASKS`; its own fields are the
    arguments in parentheses, as in "contrastive(temperature=0.1)". Methods from `inputs` on
    are traced by JAX and may use `setting`.

    With `axis_name` None, arrays are global: the whole batch of the step (or microbatch). With
    a name, they are one device's part, under pmap; `gather` gives the whole batch there.

    Attributes:
      batch_fields: parts of a batch that the task uses: "image", "label".
      metrics: names of the values that `rows` returns; config.checkpoint.best may name them.
      whole_batch: whether an example's loss depends on the others of the global batch; the
        batch cannot be cut into microbatches then.
      own_params: patterns of parameters that only this task has; fine-tuning on another task
        drops them.
      setting: parts of the run that the task uses; set when the model is configured.
      frozen: arrays beside the trained parameters, such as a teacher's, within a step.
    """

    batch_fields: ClassVar[tuple[str, ...]] = ("image", "label")
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    whole_batch: ClassVar[bool] = False
    own_params: ClassVar[tuple[str, ...]] = ()

    setting: Setting = internal()
    frozen: Any = internal()

    def check(self, config: ConfigDict) -> None:  # noqa: B027  most tasks suit all options
        """Raises InputError if other options of the run do not suit the task."""

    def model_options(self, config: ConfigDict, num_classes: int) -> dict[str, Any]:
        """Options of the model that the task decides.

        Args:
          config: config of the run.
          num_classes: number of classes of the training data.
        """
        return {}

    def build_model(self, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
        """Builds the module to train; the parameters of `config`'s model keep their paths."""
        return models.build_model(config, rngs)

    def macs(self, config: ModelConfig) -> int:
        """Multiply-accumulates of one example's forward pass in training."""
        return flops.training_macs(config)

    def train_flops(self, config: ModelConfig, trained: Collection[str] | None = None) -> int:
        """FLOPs of one example's forward and backward pass; see `models.flops.train_flops`.

        Args:
          config: configuration of the model.
          trained: paths of the parameters that get a gradient; None: all. Gradients that none of
            them needs are not counted.
        """
        spared = 0
        if trained is not None:
            spared = sum(product.spared(trained) for product in flops.training_products(config))
        return 6 * self.macs(config) - 2 * spared

    @property
    def num_classes(self) -> int | None:
        """Number of classes that labels may have; None: the task uses no labels."""
        return None

    @abc.abstractmethod
    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> Any:
        """The inputs of `losses`, computed once for all microbatches.

        Args:
          batch: arrays by name, each (B, ...); images are uint8.
          key: random key of the step, the same on all devices.
          axis_name: name of the pmap axis, or None; see the class.

        Returns:
          A pytree of arrays (B, ...).
        """

    @abc.abstractmethod
    def losses(self, model: Any, inputs: Any, axis_name: str | None) -> jax.Array:
        """Losses (B,) of the examples in `inputs`; the step takes their mean."""

    @abc.abstractmethod
    def rows(self, model: Any, batch: Batch, axis_name: str | None) -> Metrics:
        """For evaluation: values (B,) by name; their means over a data set are its metrics.

        `batch` also has `mask` (B,), False for padding of the last batch.
        """

    def model(self, params: Any) -> Any:
        """The module with these parameters."""
        if self.setting.fit is not None:
            params = self.setting.fit(params)
        return nnx.merge(self.setting.graphdef, params)

    def at(self, step: jax.Array) -> Self:
        """The task at a step of training, whose `inputs` may depend on `setting.step`."""
        return dataclasses.replace(self, setting=dataclasses.replace(self.setting, step=step))

    def with_frozen(self, frozen: Any) -> Self:
        """The task with arrays that are not trained, an argument of the step."""
        return dataclasses.replace(self, frozen=frozen)

    def images(self, batch: Batch) -> jax.Array:
        """Images of a training batch, uint8 (B, H, W, 3), with flips that the host left to do."""
        images = shard_batch(batch["image"])
        if "flip" not in batch:
            return images
        return jnp.where(batch["flip"][:, None, None, None], images[:, :, ::-1], images)

    def normalize(self, images: jax.Array) -> Any:
        """uint8 (B, H, W, 3) -> what the model takes; see `models.naflex.model_inputs`."""
        setting = self.setting
        return model_inputs(images, setting.model_config, setting.mean, setting.std)

    def example_keys(self, key: jax.Array, count: int, axis_name: str | None) -> jax.Array:
        """A key (B,) for each place in the global batch: the same under every mesh and engine."""
        return jax.vmap(jax.random.fold_in, (None, 0))(key, positions(count, axis_name))

    def dropout_keys(self, key: jax.Array, count: int, axis_name: str | None) -> jax.Array | None:
        """`example_keys` where the model draws random numbers in training, else None."""
        if not self.setting.model_config.draws_random:
            return None
        return self.example_keys(key, count, axis_name)


TASKS: Registry[Callable[..., Task]] = Registry(
    "task",
    "vit_jax.tasks.classification",
    "vit_jax.tasks.distill",
    "vit_jax.tasks.masked_patches",
    "vit_jax.tasks.pixels",
)


def positions(count: int, axis_name: str | None) -> jax.Array:
    """Places (B,) in the global batch of the examples at hand."""
    first = lax.axis_index(axis_name) * count if axis_name else 0
    return first + jnp.arange(count)


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Values of the whole global batch from those at hand: (B, ...) -> (global B, ...)."""
    return lax.all_gather(x, axis_name, tiled=True) if axis_name else x

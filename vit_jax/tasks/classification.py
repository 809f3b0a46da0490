"""What can be learnt: classification, and masked patch prediction (`config.task`)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from vit_jax.errors import InputError, unknown
from vit_jax.models.layers import shard_batch
from vit_jax.tasks.losses import create_loss, to_targets, top_k_correct
from vit_jax.tasks.masked_patches import MaskedPatches
from vit_jax.tasks.mixup import Mix, create_mix
from vit_jax.train.step import Batch, Metrics, Task

TASKS = ("classify", "masked")


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """The classes of images, mixed or not."""

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    mix: Mix | None

    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> tuple[Any, ...]:
        """Images normalised and mixed, labels as rows, a dropout key per example."""
        images = self.normalize(self.images(batch))
        targets = to_targets(batch["label"], self.num_classes)
        mix_key, dropout_key = jax.random.split(key)
        if self.mix:
            images, targets = self.mix(images, targets, key=mix_key, axis_name=axis_name)
        return images, targets, self.dropout_keys(dropout_key, len(images), axis_name)

    def losses(
        self, params: Any, images: jax.Array, targets: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Losses (B,) of what `inputs` gives."""
        return self.loss(nnx.merge(self.graphdef, params)(images, keys=keys), targets)

    def rows(self, params: Any, batch: Batch, axis_name: str | None) -> Metrics:
        """Loss, and whether a right class has the highest logit, or one of five."""
        del axis_name
        images = self.normalize(shard_batch(batch["image"]))
        logits = nnx.merge(self.graphdef, params)(images)
        return dict(
            loss=self.loss(logits, batch["label"]),
            top1=top_k_correct(logits, batch["label"], 1),
            top5=top_k_correct(logits, batch["label"], 5),
        )


def model_options(config: ConfigDict, num_classes: int) -> dict[str, Any]:
    """Options of the model that the task decides.

    Args:
      config: of the run.
      num_classes: of the training data.

    Raises:
      InputError: an unknown task, or labels beyond the model's classes.
    """
    if config.task not in TASKS:
        raise unknown("config.task", config.task, TASKS)
    wanted = config.model.num_classes
    if config.task == "masked":
        return dict(masked=True, num_classes=wanted or 0)
    if wanted is not None and wanted < num_classes:
        raise InputError(
            f"config.model.num_classes is {wanted}, but {config.data.source} has "
            f"labels of {num_classes} classes; set it to at least that, or to None"
        )
    return dict(num_classes=num_classes if wanted is None else wanted)


def create_task(
    graphdef: nnx.GraphDef, model_config: Any, mean: Any, std: Any, config: ConfigDict
) -> Task:
    """What a model is for: masked patch prediction if it is built for that, or its classes.

    Args:
      graphdef: of the model.
      model_config: its ViTConfig or BiTConfig.
      mean, std: of pixels / 255, as preprocessing says.
      config: of the run.

    Raises:
      InputError: a loss or mixing that does not exist or does not suit the task.
    """
    common = dict(graphdef=graphdef, mean=mean, std=std, config=config)
    common["loss"] = create_loss(config.loss)
    mix = create_mix(config.mixup)
    if not getattr(model_config, "masked", False):
        return Classification(num_classes=model_config.num_classes, mix=mix, **common)
    if mix or config.data.multi_label:
        raise InputError(
            "config.task 'masked' looks at no labels: leave config.mixup and "
            "config.data.multi_label off"
        )
    return MaskedPatches(
        num_classes=None, patch=model_config.patch_size, grid=model_config.grid, **common
    )

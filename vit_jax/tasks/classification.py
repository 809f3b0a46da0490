"""Classification: the classes of images (`config.task="classify"`)."""

import dataclasses
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.models.layers import shard_batch
from vit_jax.models.naflex import Patches
from vit_jax.tasks.losses import create_loss, is_sigmoid, to_targets, top_k_correct
from vit_jax.tasks.mixup import create_mix, until
from vit_jax.tasks.task import TASKS, Batch, Metrics, Task


class Inputs(NamedTuple):
    """A normalised batch: images (B, H, W, 3), target rows (B, K), dropout keys (B,)."""

    images: jax.Array | Patches
    targets: jax.Array
    keys: jax.Array | None


@TASKS.register("classify")
@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Classification of images, with or without mixup and CutMix."""

    metrics = ("top1", "top5", "loss")

    def check(self, config: ConfigDict) -> None:
        """Refuses unknown losses, wrong mixing options, and label sets without sigmoid loss."""
        create_loss(config.loss)
        create_mix(config.mixup)
        if config.data.multi_label and not is_sigmoid(config.loss.name):
            raise InputError("config.data.multi_label needs config.loss.name='sigmoid'")
        if config.data.multi_label and config.loss.class_weights:
            raise InputError(
                "config.loss.class_weights counts one class for each image: leave it empty with "
                "config.data.multi_label"
            )

    def model_options(self, config: ConfigDict, num_classes: int) -> dict[str, Any]:
        """As many classes as the data have, or more where config.model says so."""
        wanted = config.model.num_classes
        if wanted is not None and wanted < num_classes:
            raise InputError(
                f"config.model.num_classes is {wanted}, but {config.data.source} has "
                f"labels of {num_classes} classes; set it to at least that, or to None"
            )
        return dict(num_classes=num_classes if wanted is None else wanted)

    @property
    def num_classes(self) -> int:
        return self.setting.model_config.num_classes

    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> Inputs:
        """Images normalised and mixed, labels as rows, a dropout key per example."""
        images = self.normalize(self.images(batch))
        targets = to_targets(batch["label"], self.num_classes)
        mix_key, dropout_key = jax.random.split(key)
        if mix := create_mix(self.setting.config.mixup):
            if isinstance(images, Patches):
                raise InputError("config.mixup needs images of one size: no model.naflex")
            if self.setting.mix_steps is not None and self.setting.step is not None:
                mix = until(mix, self.setting.mix_steps, self.setting.step)
            images, targets = mix(images, targets, key=mix_key, axis_name=axis_name)
        return Inputs(images, targets, self.dropout_keys(dropout_key, len(images), axis_name))

    def losses(self, model: Any, inputs: Inputs, axis_name: str | None) -> jax.Array:
        """Losses (B,)."""
        del axis_name
        loss = create_loss(self.setting.config.loss, self.setting.class_weights)
        return loss(model(inputs.images, keys=inputs.keys), inputs.targets)

    def rows(self, model: Any, batch: Batch, axis_name: str | None) -> Metrics:
        """Loss, and whether a right class is among the one (top1) or five (top5) highest logits."""
        del axis_name
        logits = model(self.normalize(shard_batch(batch["image"])))
        return dict(
            loss=create_loss(self.setting.config.loss)(logits, batch["label"]),
            top1=top_k_correct(logits, batch["label"], 1),
            top5=top_k_correct(logits, batch["label"], 5),
        )

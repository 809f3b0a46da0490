"""iGPT's objectives (Chen et al. 2020, section 2.2): the next pixel, and hidden pixels.

`pixels` predicts each pixel's colour from those before it, `masked_pixels` the colours of hidden
pixels from the others (the BERT objective), `joint` adds the loss of labels (section 2.3).
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models import flops
from vit_jax.models.config import ModelConfig
from vit_jax.models.layers import shard_batch
from vit_jax.models.pixels.embedding import Pixels
from vit_jax.models.pixels.vit import PixelViT
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import defaults
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.losses import LossOptions, create_loss
from vit_jax.tasks.mixup import create_mix
from vit_jax.tasks.task import TASKS, Batch, Metrics, Task

HIDDEN = 0.15  # probability that the BERT objective hides a pixel


class Inputs(NamedTuple):
    """A batch: normalised images (B, H, W, 3), hidden pixels (B, N) or None, dropout keys (B,)."""

    images: jax.Array
    hidden: jax.Array | None
    keys: jax.Array | None


def hide(keys: jax.Array, pixels: int, rate: float) -> jax.Array:
    """Draws hidden pixels, each with probability `rate`: bool (B, pixels); one at least."""

    def draw(key: jax.Array) -> jax.Array:
        values = jax.random.uniform(key, (pixels,))
        return (values < rate) | (values <= values.min())

    return jax.vmap(draw)(keys)


def color_rows(logits: jax.Array, pixels: Pixels) -> Metrics:
    """Metrics (B,) of predicted colours: means over the hidden pixels, or over all.

    Args:
      logits: (B, N, K).
      pixels: the images' colours.

    Returns:
      `loss` in nats a pixel; `bits_per_dim`, the same in bits for each of its three channels;
      `top1`, the share of pixels with the right colour predicted.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, pixels.tokens)
    right = logits.argmax(-1) == pixels.tokens
    loss, top1 = (jnp.mean(x, axis=1, where=pixels.hidden) for x in (losses, right))
    return dict(loss=loss, bits_per_dim=loss / (3 * math.log(2)), top1=top1)


def check_model(config: ModelConfig, task: str) -> ViTConfig:
    """Refuses a model that cannot predict pixels.

    Raises:
      InputError: names what it lacks.
    """
    if not isinstance(config, ViTConfig) or not config.palette:
        raise InputError(
            f"config.task {task!r} needs a model of pixels: config.model.name 'iGPT-S', or "
            "model.palette"
        )
    if not config.color_head:
        raise InputError(f"config.task {task!r} needs config.model.color_head True")
    return config


def _check_unlabelled(config: ConfigDict) -> None:
    """Refuses options that need labels."""
    if create_mix(config.mixup) or config.data.multi_label:
        raise InputError(
            f"config.task {config.task!r} looks at no labels: leave config.mixup and "
            "config.data.multi_label off"
        )
    for name, usual in defaults(LossOptions).items():
        if config.loss[name] != usual:
            raise InputError(
                f"config.task {config.task!r} has its own loss: leave config.loss.{name} at "
                f"{usual!r}"
            )


@TASKS.register("pixels")
@dataclasses.dataclass(frozen=True)
class NextPixel(Task):
    """Each pixel's colour from the pixels before it, in reading order; labels are not used."""

    batch_fields = ("image",)
    metrics = ("loss", "bits_per_dim", "top1")

    def check(self, config: ConfigDict) -> None:
        """Refuses options that need labels."""
        _check_unlabelled(config)

    def model_options(self, config: ConfigDict, num_classes: int) -> dict[str, Any]:
        """A model without classes."""
        del num_classes
        return dict(num_classes=config.model.num_classes or 0)

    def build_model(self, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A `PixelViT`.

        Raises:
          InputError: the model cannot be trained on this task.
        """
        found = check_model(config, "pixels")
        if not found.autoregressive:
            raise InputError(
                "config.task 'pixels' predicts each pixel from those before it: set "
                "config.model.attention_kind to 'causal', local_1d, local_2d or sparse(causal=True)"
            )
        _check_headless(found, "pixels")
        return models.build_model(config, rngs)

    def macs(self, config: ModelConfig) -> int:
        """Multiply-accumulates of the encoder and of the colours of all pixels."""
        assert isinstance(config, ViTConfig)
        return flops.training_macs(config) + flops.color_macs(config)

    def hidden(self, key: jax.Array, count: int, axis_name: str | None) -> jax.Array | None:
        """Hidden pixels (B, N) of a batch; None: the objective hides none."""
        del key, count, axis_name
        return None

    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> Inputs:
        """Images normalised, hidden pixels, dropout keys."""
        images = self.images(batch)
        hidden_key, dropout_key = jax.random.split(key)
        return Inputs(
            self.normalize(images),
            self.hidden(hidden_key, len(images), axis_name),
            self.dropout_keys(dropout_key, len(images), axis_name),
        )

    def losses(self, model: PixelViT, inputs: Inputs, axis_name: str | None) -> jax.Array:
        """Mean losses (B,) of pixels in nats."""
        del axis_name
        pixels = Pixels(model.embedding.tokens(inputs.images), inputs.hidden)
        return color_rows(model.predictions(pixels, keys=inputs.keys)[1], pixels)["loss"]

    def rows(self, model: PixelViT, batch: Batch, axis_name: str | None) -> Metrics:
        """See `color_rows`; which pixels are hidden depends only on the place in the batch."""
        images = shard_batch(batch["image"])
        key = jax.random.key(self.setting.config.seed)
        hidden = self.hidden(key, len(images), axis_name)
        pixels = Pixels(model.embedding.tokens(self.normalize(images)), hidden)
        return color_rows(model.predictions(pixels)[1], pixels)


def _check_headless(config: ViTConfig, task: str) -> None:
    if config.num_classes:
        raise InputError(
            f"config.task {task!r} has no classes: leave config.model.num_classes at 0; 'joint' "
            "learns both"
        )


@TASKS.register("masked_pixels")
@dataclasses.dataclass(frozen=True)
class MaskedPixels(NextPixel):
    """The colours of hidden pixels from all others (BERT): their vectors are replaced by zeros.

    Args:
      rate: probability that a pixel is hidden.
    """

    rate: float = HIDDEN

    def check(self, config: ConfigDict) -> None:
        """Refuses options that need labels, and rates that hide nothing or everything."""
        super().check(config)
        if not 0 < self.rate < 1:
            raise InputError(f"config.task: rate is {self.rate}; give a number between 0 and 1")

    def model_options(self, config: ConfigDict, num_classes: int) -> dict[str, Any]:
        """A model without classes whose tokens see all others."""
        kind = config.model.attention_kind or "full"
        return dict(super().model_options(config, num_classes), attention_kind=kind)

    def build_model(self, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A `PixelViT`; errors as `NextPixel.build_model`."""
        found = check_model(config, "masked_pixels")
        if found.autoregressive:
            raise InputError(
                "config.task 'masked_pixels' looks at all pixels: set config.model.attention_kind "
                "to 'full'"
            )
        _check_headless(found, "masked_pixels")
        return models.build_model(config, rngs)

    def hidden(self, key: jax.Array, count: int, axis_name: str | None) -> jax.Array | None:
        """Hidden pixels (B, N), for each place in the global batch its own."""
        keys = self.example_keys(key, count, axis_name)
        return hide(keys, self.setting.model_config.num_patches, self.rate)


class JointInputs(NamedTuple):
    """A batch with labels: `Inputs`, and target rows (B, K)."""

    pixels: Inputs
    targets: jax.Array


@TASKS.register("joint")
@dataclasses.dataclass(frozen=True)
class Joint(Classification):
    """Labels and pixels together: the loss of the classes plus that of the colours.

    The model decides the objective of the pixels: the next one if its attention is causal, hidden
    ones (with the probability 0.15) otherwise. It is evaluated as a classifier.

    Args:
      weight: factor of the loss of the colours.
    """

    weight: float = 1.0

    def check(self, config: ConfigDict) -> None:
        """As in classification; refuses mixed images, whose pixels are of no image."""
        super().check(config)
        if create_mix(config.mixup):
            raise InputError("config.task 'joint' predicts pixels: leave config.mixup off")
        if not 0 < self.weight < math.inf:
            raise InputError(
                f"config.task: weight is {self.weight}; give a positive number, or take 'classify'"
            )

    def build_model(self, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
        """A `PixelViT` with classes.

        Raises:
          InputError: the model predicts no pixels, or no classes.
        """
        check_model(config, "joint")
        if not config.num_classes:
            raise InputError("config.task 'joint' needs config.model.num_classes above 0, or None")
        return models.build_model(config, rngs)

    def macs(self, config: ModelConfig) -> int:
        """Multiply-accumulates of the classifier and of the colours of all pixels."""
        assert isinstance(config, ViTConfig)
        return super().macs(config) + flops.color_macs(config)

    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> Any:
        """Images normalised, labels as rows, hidden pixels, a dropout key per example."""
        hidden_key, key = jax.random.split(key)
        images, targets, keys = super().inputs(batch, key, axis_name)
        assert isinstance(images, jax.Array)  # no model.naflex
        hidden, config = None, self.setting.model_config
        if not config.autoregressive:
            own = self.example_keys(hidden_key, len(targets), axis_name)
            hidden = hide(own, config.num_patches, HIDDEN)
        return JointInputs(Inputs(images, hidden, keys), targets)

    def losses(self, model: PixelViT, inputs: Any, axis_name: str | None) -> jax.Array:
        """Losses (B,)."""
        del axis_name
        images, hidden, keys = inputs.pixels
        pixels = Pixels(model.embedding.tokens(images), hidden)
        logits, colors = model.predictions(pixels, keys=keys)
        loss = create_loss(self.setting.config.loss, self.setting.class_weights)
        return loss(logits, inputs.targets) + self.weight * color_rows(colors, pixels)["loss"]

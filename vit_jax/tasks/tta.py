"""Test-time augmentation: a prediction is the mean over several views of an image.

The views are mirror images and crops, and what is averaged are probabilities (Krizhevsky et al.,
ImageNet Classification with Deep Convolutional Neural Networks, 2012, section 4.1).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.data import Preprocess
from vit_jax.errors import InputError
from vit_jax.models.config import ModelConfig
from vit_jax.models.layers import shard_batch
from vit_jax.models.naflex import Patches

TTA = ("none", "flip", "five_crop", "ten_crop")
MEANING = (
    "views over which probabilities are averaged: none, flip (the image and its mirror image), "
    "five_crop (corners and middle of a larger image) or ten_crop (those and their mirror images)"
)


@dataclasses.dataclass(frozen=True)
class Views:
    """Several views of each image, and the mean of a model's predictions for them.

    Attributes:
      tta: one of TTA, not none.
      size: (height, width) that the model takes.
      sigmoid: whether the probability of a class is the sigmoid of its logit, not the softmax.
    """

    tta: str
    size: tuple[int, int]
    sigmoid: bool = False

    def of(self, images: jax.Array) -> jax.Array:
        """Images (B, H, W, C) -> views (V, B, h, w, C); V is 2, 5 or 10.

        For crops: top left, top right, bottom left, bottom right, middle; then their mirrors.
        """
        views = [images]
        if self.tta != "flip":
            height, width = self.size
            views = [images[:, y : y + height, x : x + width] for y, x in self._at(images)]
        if self.tta != "five_crop":
            views += [view[:, :, ::-1] for view in views]
        return jnp.stack(views)

    def _at(self, images: jax.Array) -> list[tuple[int, int]]:
        """Corners of the crops."""
        bottom, right = (have - want for have, want in zip(images.shape[1:3], self.size))
        return [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]

    def averaged(
        self, model: Callable[[jax.Array], jax.Array]
    ) -> Callable[[jax.Array | Patches], jax.Array]:
        """A model whose logits are those of its mean probabilities over the views."""

        def logits(images: jax.Array | Patches) -> jax.Array:
            if isinstance(images, Patches):
                raise InputError("views are of images of one size: no model.naflex")

            def of_view(view: jax.Array) -> jax.Array:
                return model(shard_batch(view))

            return mean_logits(jax.lax.map(of_view, self.of(images)), self.sigmoid)

        return logits


def views_of(
    tta: str, model_config: ModelConfig, sigmoid: bool, pp: Preprocess, where: str
) -> tuple[Views, Preprocess]:
    """The views of a model's images, and the preprocessing that yields what they are cut from.

    Args:
      tta: one of `tasks.tta.TTA`, not none.
      model_config: configuration of the model.
      sigmoid: see `Views`.
      pp: preprocessing that yields images of the model's size.
      where: option that asks for the views, for messages.

    Raises:
      InputError: a model of images of any size, or no larger image to cut crops from.
    """
    if model_config.naflex:
        raise InputError(f"{where} needs a model of images of one size: no model.naflex")
    height, width = model_config.image_size
    views = Views(tta, (height, width), sigmoid)
    return views, pp if tta == "flip" else pp.for_crops(where)


def mean_logits(logits: jax.Array, sigmoid: bool) -> jax.Array:
    """Logits (B, K) whose probabilities are the mean of those of logits (V, B, K), in float32."""
    logits = logits.astype(jnp.float32)
    count = jnp.log(float(len(logits)))

    def log_mean(log_p: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(log_p, axis=0) - count

    if sigmoid:
        return log_mean(jax.nn.log_sigmoid(logits)) - log_mean(jax.nn.log_sigmoid(-logits))
    return log_mean(jax.nn.log_softmax(logits))

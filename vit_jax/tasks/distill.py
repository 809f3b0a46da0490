"""Distillation: a model learns from another one, the teacher (`config.task="distill"`).

The teacher sees the image that the model sees, with the same augmentation and mixing, resized and
normalised as its own weights need. It is never trained: its parameters are arguments of the step,
beside the state.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models import flops
from vit_jax.models.config import ModelConfig
from vit_jax.models.forms.platform import training_form
from vit_jax.models.layers import Dense, shard_batch
from vit_jax.options import check_section, defaults, option
from vit_jax.spec import internal
from vit_jax.tasks.classification import Classification, Inputs
from vit_jax.tasks.losses import create_loss
from vit_jax.tasks.task import TASKS

KINDS = ("soft", "hard", "feature")
FEATURE_LOSSES = ("cosine", "mse")


@dataclasses.dataclass(frozen=True)
class DistillOptions:
    """`config.distill`."""

    teacher: str = option(
        "",
        "weights of the teacher, for task distill: a workdir, a checkpoint or a published file, as "
        "init_from",
    )
    teacher_ema: bool = option(False, "take the averaged (EMA) parameters of the teacher")
    kind: str = option(
        "soft",
        "what is learnt from the teacher: soft (its probabilities; 1503.02531), hard (its most "
        "probable class; DeiT, 2012.12877) or feature (its pooled features, after a learnt linear "
        "layer)",
        choices=KINDS,
    )
    alpha: float = option(
        0.5,
        "weight of the teacher's loss, up to 1; that of the labels has weight 1 - alpha",
        above=0,
    )
    temperature: float = option(
        1.0,
        "for kind soft: logits of both models are divided by it, and the loss is multiplied by its "
        "square",
        above=0,
    )
    feature_loss: str = option(
        "cosine",
        "for kind feature: cosine (1 - cosine similarity) or mse (mean squared difference)",
        choices=FEATURE_LOSSES,
    )


def soft_loss(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL(teacher || student) in nats (B,), of probabilities softmax(logits / T) (1503.02531).

    Args:
      student, teacher: logits (B, K).
      temperature: T.
    """
    log_p, log_q = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (teacher, student)
    )
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def hard_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Cross-entropy (B,) of logits (B, K) with the teacher's most probable class (2012.12877)."""
    log_q = jax.nn.log_softmax(student.astype(jnp.float32))
    return -jnp.take_along_axis(log_q, teacher.argmax(axis=-1)[:, None], axis=-1)[:, 0]


def feature_loss(student: jax.Array, teacher: jax.Array, kind: str) -> jax.Array:
    """The distance (B,) of features (B, D); `kind` is one of FEATURE_LOSSES."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    if kind == "mse":
        return jnp.square(student - teacher).mean(axis=-1)
    norms = jnp.linalg.norm(student, axis=-1) * jnp.linalg.norm(teacher, axis=-1)
    return 1 - (student * teacher).sum(axis=-1) / jnp.maximum(norms, 1e-8)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model to learn from, without its parameters.

    Attributes:
      config: configuration of the teacher; without classes it gives features.
      graphdef: static structure of the teacher.
      mean, std: normalisation of pixels / 255 of the teacher's weights.
      places: the teacher's class for each of the model's classes; None: the same numbers.
    """

    config: ModelConfig
    graphdef: nnx.GraphDef
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    places: tuple[int, ...] | None = None

    def __call__(
        self, params: Any, images: jax.Array, mean: Sequence[float], std: Sequence[float]
    ) -> jax.Array:
        """The teacher's logits (B, K), or features (B, D), in inference mode; no gradient.

        Args:
          params: parameters of the teacher.
          images: (B, H, W, 3), normalised by `mean` and `std`.
        """
        with jax.named_scope("teacher"), training_form(False):
            images = self._own_images(images, mean, std)
            model: Any = models.merge(self.graphdef, params)
            outputs = jax.lax.stop_gradient(model(images).astype(jnp.float32))
        return outputs if self.places is None else outputs[:, jnp.array(self.places)]

    def _own_images(
        self, images: jax.Array, mean: Sequence[float], std: Sequence[float]
    ) -> jax.Array:
        """The images in the teacher's size (bilinear, with antialiasing) and normalisation."""
        size = tuple(self.config.image_size)
        if images.shape[1:3] != size:
            shape = (images.shape[0], *size, images.shape[3])
            images = shard_batch(jax.image.resize(images, shape, "bilinear", antialias=True))
        if (tuple(mean), tuple(std)) == (self.mean, self.std):
            return images
        pixels = images * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)
        own_mean, own_std = (jnp.asarray(x, jnp.float32) for x in (self.mean, self.std))
        return (pixels - own_mean) / own_std


class DistillParts(nnx.Module):
    """Parameters of distillation beside the model; fine-tuning drops them."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.projection = Dense((inputs,), (outputs,), rngs=rngs)


@TASKS.register("distill")
@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """Classification with a teacher; evaluated without it.

    A model with `distillation="head"` learns as in DeiT (2012.12877): the class token's head from
    the labels, the distillation token's from the teacher; evaluation averages the two.

    Attributes:
      teacher: the teacher, set when a run begins; its parameters are `frozen`.
    """

    teacher: Teacher | None = internal()
    own_params = ("distill/.*",)

    def check(self, config: ConfigDict) -> None:
        """As in classification; refuses options that the kind of distillation does not use."""
        super().check(config)
        chosen = config.distill
        check_section(DistillOptions, chosen, "config.distill")
        if not chosen.teacher:
            raise InputError("config.task 'distill' needs config.distill.teacher: its weights")
        if chosen.alpha > 1:
            raise InputError(f"config.distill.alpha is {chosen.alpha}; it must be at most 1")
        if chosen.kind != "feature" and config.data.multi_label:
            raise InputError(
                f"config.distill.kind {chosen.kind!r} needs one class an image; with "
                "config.data.multi_label take 'feature'"
            )
        usual = defaults(DistillOptions)
        for name, kind in (("temperature", "soft"), ("feature_loss", "feature")):
            if chosen.kind != kind and chosen[name] != usual[name]:
                raise InputError(f"config.distill.{name} is only for config.distill.kind {kind!r}")

    def build_model(self, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Module:
        """The model, with the projection to the teacher's features where that is learnt."""
        model: Any = models.build_model(config, rngs)
        if self.teacher is not None and not self.teacher.config.num_classes:
            model.distill = DistillParts(
                config.feature_width, self.teacher.config.feature_width, rngs=rngs
            )
        return model

    def model(self, params: Any) -> Any:
        """The module with these parameters; without a teacher, the model alone."""
        if self.teacher is None:
            params = {name: part for name, part in params.items() if name != "distill"}
        return super().model(params)

    def train_flops(self, config: ModelConfig, trained: Collection[str] | None = None) -> int:
        """Those of the model and of the teacher's forward pass."""
        own = super().train_flops(config, trained)
        return own + (flops.forward_flops(self.teacher.config) if self.teacher else 0)

    def losses(self, model: Any, inputs: Inputs, axis_name: str | None) -> jax.Array:
        """Losses (B,): (1 - alpha) of the labels + alpha of the teacher."""
        del axis_name
        assert self.teacher is not None
        setting, chosen = self.setting, self.setting.config.distill
        assert isinstance(inputs.images, jax.Array)  # no model.naflex
        taught = self.teacher(self.frozen, inputs.images, setting.mean, setting.std)
        logits, token_logits, features = model.outputs(inputs.images, keys=inputs.keys)
        student = logits if token_logits is None else token_logits
        if chosen.kind == "feature":
            projected = model.distill.projection(features)
            loss = feature_loss(projected, taught, chosen.feature_loss)
        elif chosen.kind == "soft":
            loss = soft_loss(student, taught, chosen.temperature)
        else:
            loss = hard_loss(student, taught)
        if chosen.alpha == 1:
            return loss
        labels = create_loss(setting.config.loss)(logits, inputs.targets)
        return (1 - chosen.alpha) * labels + chosen.alpha * loss

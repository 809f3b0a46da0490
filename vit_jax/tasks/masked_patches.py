"""Masked patch prediction: pre-training without labels (section 4.6, appendix B.1.2).

Half of an image's patch embeddings are corrupted: most are replaced by a learnt [mask], some by
the embedding of another patch, and some are kept. The model then predicts the mean colour of
every corrupted patch, with three bits per channel.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.models import flops, layers
from vit_jax.models.config import ModelConfig
from vit_jax.models.layers import Dense, fold_in, shard_batch
from vit_jax.models.vit import ViT
from vit_jax.models.vit_config import ViTConfig
from vit_jax.tasks.losses import create_loss, top_k_correct
from vit_jax.tasks.mixup import create_mix
from vit_jax.tasks.task import TASKS, Batch, Metrics, Task

CORRUPTED = 0.5  # share of patches
# Of those: shares replaced by [mask] and by another patch of the image; the rest is kept.
HIDDEN, REPLACED = 0.8, 0.1
LEVELS = 8  # of each colour channel: three bits
COLORS = LEVELS**3


def mean_colors(images: jax.Array, patch: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
    """Each patch's mean colour as a class: 64 r + 8 g + b of levels from 0 to 7.

    Level k holds means in [k / 8, (k + 1) / 8); the last level includes white. Integer
    arithmetic makes the result the same on every device.

    Args:
      images: uint8 (B, H, W, 3).
      patch: (height, width).
      grid: (rows, columns).

    Returns:
      int32 (B, rows * columns).
    """
    (height, width), (rows, columns) = patch, grid
    x = images[:, : rows * height, : columns * width].astype(jnp.int32)
    x = x.reshape(len(x), rows, height, columns, width, 3).sum(axis=(2, 4))
    levels = jnp.minimum(LEVELS * x // (255 * height * width), LEVELS - 1)
    red, green, blue = jnp.moveaxis(levels, -1, 0)
    return ((red * LEVELS + green) * LEVELS + blue).reshape(len(x), rows * columns)


def corrupt(key: jax.Array, patches: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws at random how the patches of one image are corrupted.

    Args:
      key: random key; the same key gives the same corruption.
      patches: number of patches, at least two.

    Returns:
      Three arrays (patches,): whether a patch is corrupted (exactly half of them are);
      whether [mask] replaces it; and otherwise, which patch's embedding takes its place.
    """
    order_key, fate_key, other_key = jax.random.split(key, 3)
    own = jnp.arange(patches)
    rank = jax.random.permutation(order_key, own)
    chosen = rank < round(CORRUPTED * patches)
    fate = jax.random.uniform(fate_key, (patches,))
    hidden = chosen & (fate < HIDDEN)
    replaced = chosen & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED)
    other = (own + jax.random.randint(other_key, (patches,), 1, patches)) % patches
    return chosen, hidden, jnp.where(replaced, other, own)


class MaskedParts(nnx.Module):
    """Parameters of pre-training beside the encoder; fine-tuning drops them."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(init(rngs.params(), (1, 1, config.width), jnp.float32))
        self.head = Dense(
            (config.width,),
            (COLORS,),
            rngs=rngs,
            dtype=jnp.dtype(config.dtype),
            kernel_init=layers.zeros,
        )


class MaskedViT(ViT):
    """A ViT without classifier, with a learnt [mask] embedding and a head on every patch.

    Called as a ViT, it returns the features of images without corruption.
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.masked = MaskedParts(config, rngs=rngs)

    def predict_colors(
        self,
        images: jax.Array,
        source: jax.Array,
        masked: jax.Array,
        *,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Colours of all patches of corrupted images.

        Args:
          images: (B, H, W, 3), normalised as the model's preprocessing says.
          source: (B, P) number of the patch from which each place takes its embedding.
          masked: (B, P) whether the [mask] embedding is used instead.
          keys: (B,) dropout keys, None in evaluation.

        Returns:
          Logits (B, P, COLORS) in float32.
        """
        with jax.named_scope("embedding"):
            x = shard_batch(self.embedding(images))
            x = jnp.take_along_axis(x, source[..., None], axis=1)
            x = jnp.where(masked[..., None], self.masked.embedding[...].astype(x.dtype), x)
            x = self._sequence(x, fold_in(keys, 0))
        x, _ = self._encode(x, fold_in(keys, 1), False)
        patches = self.norm(x)[:, self.config.prefix_tokens :]
        with jax.named_scope("head"):
            return self.masked.head(patches).astype(jnp.float32)


class Inputs(NamedTuple):
    """A corrupted batch; see `corrupt` for the arrays (B, patches)."""

    images: jax.Array  # normalised (B, H, W, 3)
    colors: jax.Array  # (B, patches)
    chosen: jax.Array
    hidden: jax.Array
    source: jax.Array
    keys: jax.Array | None  # dropout keys (B,)


@TASKS.register("masked")
@dataclasses.dataclass(frozen=True)
class MaskedPatches(Task):
    """The mean colours of corrupted patches; labels are not used."""

    batch_fields = ("image",)
    metrics = ("top1", "top5", "loss")
    own_params = ("masked/.*",)

    def check(self, config: ConfigDict) -> None:
        """Refuses options that need labels."""
        create_loss(config.loss)
        if create_mix(config.mixup) or config.data.multi_label:
            raise InputError(
                "config.task 'masked' looks at no labels: leave config.mixup and "
                "config.data.multi_label off"
            )
        if config.loss.class_weights:
            raise InputError(
                "config.task 'masked' looks at no labels: leave config.loss.class_weights empty"
            )

    def model_options(self, config: ConfigDict, num_classes: int) -> dict[str, Any]:
        """A model without classes."""
        del num_classes
        return dict(num_classes=config.model.num_classes or 0)

    def build_model(self, config: ModelConfig, rngs: nnx.Rngs) -> "MaskedViT":
        """A `MaskedViT`.

        Raises:
          InputError: the model cannot be trained on this task.
        """
        if not isinstance(config, ViTConfig):
            raise InputError("masked patch prediction needs a ViT, not a BiT")
        if config.num_classes or config.pre_logits or config.head == "map":
            raise InputError(
                "masked patch prediction has no classifier: leave model.num_classes and "
                "model.pre_logits at 0, model.head not at 'map'"
            )
        if config.patch_dropout:
            raise InputError("masked patch prediction needs all patches: no model.patch_dropout")
        if config.naflex:
            raise InputError("masked patch prediction needs images of one size: no model.naflex")
        if config.resnet_stages is not None or config.grid == (1, 1):
            raise InputError(
                "masked patch prediction needs a plain ViT with two patches or more: those of a "
                "hybrid have seen each other"
            )
        return MaskedViT(config, rngs=rngs)

    def macs(self, config: ModelConfig) -> int:
        """Multiply-accumulates of the encoder and of the colour classifier on every patch."""
        assert isinstance(config, ViTConfig)
        return flops.macs(config) + config.num_patches * config.width * COLORS

    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> Inputs:
        """Images normalised, colours, which patches are corrupted and how, dropout keys."""
        images = self.images(batch)
        config = self.setting.model_config
        colors = mean_colors(images, config.patch_size, config.grid)
        corrupt_key, dropout_key = jax.random.split(key)
        chosen, hidden, source = self._corrupt(corrupt_key, len(images), axis_name)
        dropout_keys = self.dropout_keys(dropout_key, len(images), axis_name)
        return Inputs(self.normalize(images), colors, chosen, hidden, source, dropout_keys)

    def losses(self, model: "MaskedViT", inputs: Inputs, axis_name: str | None) -> jax.Array:
        """Mean losses (B,) over the corrupted patches."""
        del axis_name
        loss = create_loss(self.setting.config.loss)
        logits = model.predict_colors(inputs.images, inputs.source, inputs.hidden, keys=inputs.keys)
        return _mean(loss(*_flat(logits, inputs.colors)), inputs.chosen)

    def rows(self, model: "MaskedViT", batch: Batch, axis_name: str | None) -> Metrics:
        """Loss and accuracy per image.

        `top1` and `top5` are the shares of corrupted patches with the right colour predicted, or
        among the five most probable. An image's corruption depends only on its place in the batch.
        """
        images = shard_batch(batch["image"])
        config = self.setting.model_config
        colors = mean_colors(images, config.patch_size, config.grid)
        key = jax.random.key(self.setting.config.seed)
        chosen, hidden, source = self._corrupt(key, len(images), axis_name)
        logits = model.predict_colors(self.normalize(images), source, hidden)
        flat = _flat(logits, colors)
        return dict(
            loss=_mean(create_loss(self.setting.config.loss)(*flat), chosen),
            top1=_mean(top_k_correct(*flat, 1), chosen),
            top5=_mean(top_k_correct(*flat, 5), chosen),
        )

    def _corrupt(self, key: jax.Array, count: int, axis_name: str | None) -> tuple[jax.Array, ...]:
        keys = self.example_keys(key, count, axis_name)
        patches = self.setting.model_config.num_patches
        return jax.vmap(lambda key: corrupt(key, patches))(keys)


def _flat(logits: jax.Array, colors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(B, P, K), (B, P) -> (B * P, K), (B * P,)."""
    return logits.reshape(-1, logits.shape[-1]), colors.reshape(-1)


def _mean(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Values (B * P,) of patches -> means (B,) over those chosen (B, P)."""
    values = values.reshape(chosen.shape)
    return jnp.where(chosen, values, 0).sum(axis=1) / chosen.sum(axis=1)

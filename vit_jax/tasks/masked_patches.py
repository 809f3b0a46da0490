"""Masked patch prediction: pre-training without labels (section 4.6, appendix B.1.2).

Half of an image's patch embeddings are corrupted: most give way to a learnt [mask], some to
another patch's, some stay. The model then tells the mean colour of every corrupted patch, by
three bits a channel.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models.layers import shard_batch
from vit_jax.tasks.losses import top_k_correct
from vit_jax.train.step import Batch, Metrics, Task

CORRUPTED = 0.5  # share of patches
# Of those: [mask], another patch of the image, and what remains stays.
HIDDEN, REPLACED = 0.8, 0.1
LEVELS = 8  # of each colour channel


def mean_colors(images: jax.Array, patch: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
    """Each patch's mean colour as a class: 64 r + 8 g + b of levels from 0 to 7.

    Level k holds means in [k / 8, (k + 1) / 8), white in the last. All in whole numbers:
    the same on every device.

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
    """What happens to the patches of one image.

    Args:
      key: random; the same key gives the same corruption.
      patches: how many there are, at least two.

    Returns:
      Three arrays (patches,): which are corrupted, exactly half of them; where [mask]
      stands; and whose embedding stands in each place otherwise.
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


@dataclasses.dataclass(frozen=True)
class MaskedPatches(Task):
    """The colours of corrupted patches; labels do not count."""

    loss: Callable[[jax.Array, jax.Array], jax.Array]
    patch: tuple[int, int]
    grid: tuple[int, int]

    def inputs(self, batch: Batch, key: jax.Array, axis_name: str | None) -> tuple[Any, ...]:
        """Images normalised, colours, what is corrupted and how, a dropout key per example."""
        images = self.images(batch)
        colors = mean_colors(images, self.patch, self.grid)
        corrupt_key, dropout_key = jax.random.split(key)
        corruption = self._corrupt(corrupt_key, len(images), axis_name)
        dropout_keys = self.dropout_keys(dropout_key, len(images), axis_name)
        return self.normalize(images), colors, *corruption, dropout_keys

    def losses(
        self,
        params: Any,
        images: jax.Array,
        colors: jax.Array,
        chosen: jax.Array,
        hidden: jax.Array,
        source: jax.Array,
        keys: jax.Array | None,
    ) -> jax.Array:
        """Mean losses (B,) over the corrupted patches of what `inputs` gives."""
        model = nnx.merge(self.graphdef, params)
        logits = model.predict_colors(images, source, hidden, keys=keys)
        return _mean(self.loss(*_flat(logits, colors)), chosen)

    def rows(self, params: Any, batch: Batch, axis_name: str | None) -> Metrics:
        """Loss, and the share of corrupted patches whose colour is predicted, or is among five.

        What is corrupted depends on an image's place in its batch alone.
        """
        images = shard_batch(batch["image"])
        colors = mean_colors(images, self.patch, self.grid)
        key = jax.random.key(self.config.seed)
        chosen, hidden, source = self._corrupt(key, len(images), axis_name)
        model = nnx.merge(self.graphdef, params)
        logits = model.predict_colors(self.normalize(images), source, hidden)
        flat = _flat(logits, colors)
        return dict(
            loss=_mean(self.loss(*flat), chosen),
            top1=_mean(top_k_correct(*flat, 1), chosen),
            top5=_mean(top_k_correct(*flat, 5), chosen),
        )

    def _corrupt(self, key: jax.Array, count: int, axis_name: str | None) -> tuple[jax.Array, ...]:
        keys = self.example_keys(key, count, axis_name)
        return jax.vmap(lambda key: corrupt(key, self.grid[0] * self.grid[1]))(keys)


def _flat(logits: jax.Array, colors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(B, P, K), (B, P) -> (B * P, K), (B * P,)."""
    return logits.reshape(-1, logits.shape[-1]), colors.reshape(-1)


def _mean(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Values (B * P,) of patches -> means (B,) over those chosen (B, P)."""
    values = values.reshape(chosen.shape)
    return jnp.where(chosen, values, 0).sum(axis=1) / chosen.sum(axis=1)

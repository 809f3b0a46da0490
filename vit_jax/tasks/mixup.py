"""Mixup and CutMix on the device: every example is mixed with its predecessor in the batch.

Each step has one ratio (and one box), drawn from the step's key, so that results
depend neither on the mesh nor on the engine. The global batch is mixed before
gradient accumulation cuts it into microbatches.

Under jit the arrays are the global batch. Under pmap pass `axis_name` and the same
key on all devices: devices hold consecutive slices, and the first example of each
is mixed with the last one of the device before.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.errors import InputError
from vit_jax.options import Duration, check_section, option

# (images (B, H, W, C) float, targets (B, K) float, key=, axis_name=None) -> the same, mixed.
Mix = Callable[..., tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class MixupOptions:
    """`config.mixup`: with both on, each step picks one of the two at random."""

    alpha: float = option(
        0.0,
        "mixup (1710.09412) of pairs of images, with a ratio drawn from Beta(alpha, alpha); 0: off",
        at_least=0,
    )
    cutmix_alpha: float = option(
        0.0,
        "CutMix (1905.04899), with a relative area drawn from Beta(cutmix_alpha, cutmix_alpha); "
        "0: off. With mixup on too, each step picks one of the two at random",
        at_least=0,
    )
    off_after: Duration = option(
        Duration(),
        "length of training with mixup and CutMix, after which images are not mixed; unset: all "
        "of it",
    )


def create_mix(config: MixupOptions) -> Mix | None:
    """The mixing function of `config.mixup`, or None if both are off.

    Raises:
      InputError: a negative alpha.
    """
    check_section(MixupOptions, config, "config.mixup")
    off_after: Any = config.off_after
    if any(value is not None for value in off_after.values()) and not (
        config.alpha or config.cutmix_alpha
    ):
        raise InputError(
            "config.mixup.off_after ends mixing, and nothing is mixed; set config.mixup.alpha or "
            "config.mixup.cutmix_alpha"
        )
    if config.alpha and config.cutmix_alpha:
        return _one_of(_with(mixup, config.alpha), _with(cutmix, config.cutmix_alpha))
    if config.alpha:
        return _with(mixup, config.alpha)
    if config.cutmix_alpha:
        return _with(cutmix, config.cutmix_alpha)
    return None


def mixup(
    images: jax.Array,
    targets: jax.Array,
    *,
    alpha: float,
    key: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mixup (1710.09412): r * example + (1 - r) * its predecessor, r = max(b, 1 - b).

    b is drawn from Beta(alpha, alpha). The example itself has the larger share, as in
    the code of AugReg (2106.10270).

    Args:
      images: (B, H, W, C) float.
      targets: (B, K) float, one row over classes per example.
      alpha: parameter of the Beta distribution, above 0.
      key: random key of the step.
      axis_name: name of the pmap axis over which the batch is spread.
    """
    ratio = jax.random.beta(key, alpha, alpha)
    ratio = jnp.maximum(ratio, 1 - ratio)

    def mix(x: jax.Array) -> jax.Array:
        share = ratio.astype(x.dtype)
        return share * x + (1 - share) * predecessors(x, axis_name)

    return mix(images), mix(targets)


def cutmix(
    images: jax.Array,
    targets: jax.Array,
    *,
    alpha: float,
    key: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """CutMix (1905.04899): a box of the predecessor is pasted into every image.

    The box has the aspect ratio of the image and a share 1 - b of its area, with b
    drawn from Beta(alpha, alpha). Its centre is uniformly random; parts outside the
    image are cut off. Targets are mixed by the area that was pasted. Arguments as in
    `mixup`.
    """
    height, width = images.shape[1:3]
    ratio_key, y_key, x_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(ratio_key, alpha, alpha))
    rows = _span(y_key, side, height)
    columns = _span(x_key, side, width)
    box = rows[:, None] & columns[None, :]
    share = jnp.mean(box, dtype=targets.dtype)
    return (
        jnp.where(box[None, :, :, None], predecessors(images, axis_name), images),
        (1 - share) * targets + share * predecessors(targets, axis_name),
    )


def predecessors(x: jax.Array, axis_name: str | None = None) -> jax.Array:
    """The predecessor of every example in the global batch; that of the first is the last."""
    if axis_name is None:
        return jnp.roll(x, 1, axis=0)
    devices = jax.lax.axis_size(axis_name)
    ring = [(i, (i + 1) % devices) for i in range(devices)]
    return jnp.concatenate([jax.lax.ppermute(x[-1:], axis_name, ring), x[:-1]])


def until(mix: Mix, steps: int, step: jax.Array) -> Mix:
    """A mixing function that leaves everything as it is from step `steps` (from 0) on."""

    def mixed(images: jax.Array, targets: jax.Array, **options: Any) -> tuple[jax.Array, jax.Array]:
        return jax.lax.cond(
            step < steps,
            lambda images, targets: mix(images, targets, **options),
            lambda images, targets: (images, targets),
            images,
            targets,
        )

    return mixed


def _span(key: jax.Array, side: jax.Array, size: int) -> jax.Array:
    """Whether each of `size` pixels is in a random interval of length side * size: (size,) bool."""
    centre = jax.random.randint(key, (), 0, size)
    length = jnp.round(side * size).astype(jnp.int32)
    start = centre - length // 2
    pixels = jnp.arange(size)
    return (pixels >= start) & (pixels < start + length)


def _with(mix: Mix, alpha: float) -> Mix:
    def mixed(images: jax.Array, targets: jax.Array, **options: Any) -> tuple[jax.Array, jax.Array]:
        return mix(images, targets, alpha=alpha, **options)

    return mixed


def _one_of(first: Mix, second: Mix) -> Mix:
    """Picks one of the two at random in each step."""

    def mixed(
        images: jax.Array, targets: jax.Array, *, key: jax.Array, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        coin_key, key = jax.random.split(key)
        branches = [
            lambda images, targets, mix=mix: mix(images, targets, key=key, axis_name=axis_name)
            for mix in (first, second)
        ]
        return jax.lax.cond(jax.random.bernoulli(coin_key), *branches, images, targets)

    return mixed

"""Moving averages of parameters (EMA, Polyak), and how their decay rate begins."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.options import option
from vit_jax.train.optim.options import EMA_WARMUPS, arguments


@dataclasses.dataclass(frozen=True)
class EmaWarmup:
    """How the decay rate of an average begins."""

    def share(self, decay: float, step: jax.Array) -> jax.Array:
        """The share of the new parameters in the average after update `step`, float32, from 0."""
        return jnp.float32(1 - decay)


@EMA_WARMUPS.register("corrected")
@dataclasses.dataclass(frozen=True)
class Corrected(EmaWarmup):
    """Constant decay, corrected as in Adam: the initial parameters weigh nothing."""

    def share(self, decay: float, step: jax.Array) -> jax.Array:
        log_decay = math.log(decay)
        return jnp.minimum(math.expm1(log_decay) / jnp.expm1((step + 1) * log_decay), 1)


@EMA_WARMUPS.register("none")
@dataclasses.dataclass(frozen=True)
class Constant(EmaWarmup):
    """Constant decay from the initial parameters on."""


@EMA_WARMUPS.register("power")
@dataclasses.dataclass(frozen=True)
class Power(EmaWarmup):
    """min(decay, 1 - (1 + step / inv_gamma) ** -power), as timm's ModelEmaV3 with warm-up."""

    inv_gamma: float = option(1.0, "steps in which the warm-up begins to matter", above=0)
    power: float = option(0.6667, "power of the warm-up; 1: a plain mean", above=0)

    def share(self, decay: float, step: jax.Array) -> jax.Array:
        return jnp.maximum((1 + step / self.inv_gamma) ** -self.power, 1 - decay)


@EMA_WARMUPS.register("tensorflow")
@dataclasses.dataclass(frozen=True)
class TensorFlow(EmaWarmup):
    """min(decay, (1 + step) / (10 + step)), as tf.train.ExponentialMovingAverage."""

    def share(self, decay: float, step: jax.Array) -> jax.Array:
        return jnp.maximum(9 / (10 + step), 1 - decay)


def update_ema(
    ema: Any, params: Any, decay: float, step: jax.typing.ArrayLike, warmup: str = "corrected"
) -> Any:
    """Polyak averages after update number `step` (from 0); the paper's decay is .9999.

    By default, decay is constant with its start corrected as in Adam's moments: parameters of k
    updates ago weigh decay**k, the initial ones nothing, and weights sum to 1. So a run shorter
    than 1 / (1 - decay) steps averages evenly instead of keeping its initial values.

    Args:
      ema: averages so far; at the start the initial parameters.
      params: parameters after the update.
      decay: decay rate in (0, 1).
      step: number of the update.
      warmup: `config.optimizer.ema_warmup`.
    """
    begins: EmaWarmup = arguments(EMA_WARMUPS, warmup, "config.optimizer.ema_warmup")
    share = begins.share(decay, jnp.asarray(step, jnp.float32))
    return jax.tree.map(lambda average, p: average + share * (p - average), ema, params)

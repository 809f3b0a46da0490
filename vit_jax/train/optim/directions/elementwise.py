"""The optimizers that turn gradients into a direction parameter by parameter.

sgd, adam, adamw, adafactor and lion do what torch.optim or their papers do, the others what Optax
does under the same name. Where Optax takes a norm of a whole array, stacked blocks have one for
each layer.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.options import option
from vit_jax.train.optim.directions.storage import with_storage
from vit_jax.train.optim.matrices import layer_axes, map_layers
from vit_jax.train.optim.options import (
    OPTIMIZERS,
    Direction,
    OptimizerKind,
    OptimizerOptions,
    Parts,
    Whole,
)

# The dtype in which Optax keeps a first moment; `with_storage` makes 8 bits of float32.
MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "8bit": jnp.float32}


def coupled(direction: optax.GradientTransformation) -> Whole:
    """An optimizer whose weight decay is a part of the gradient (L2)."""

    def build(parts: Parts) -> list[optax.GradientTransformation]:
        return [*parts.decay, direction, parts.factors, parts.rate]

    return Whole(build)


@OPTIMIZERS.register("sgd")
def _sgd(config: OptimizerOptions, kernels: Any) -> Direction:
    if not config.momentum:
        return coupled(optax.identity())
    dtype = MOMENT_DTYPES[config.moment_dtype]
    trace = optax.trace(config.momentum, config.nesterov, dtype)
    return coupled(with_storage(trace, config.moment_dtype))


@OPTIMIZERS.register("rmsprop")
@dataclasses.dataclass(frozen=True)
class RmsProp(OptimizerKind):
    """As torch.optim.RMSprop; weight decay is added to the gradient."""

    decay: float = option(0.99, "decay rate of the second moment", at_least=0, below=1)
    momentum: float = option(0.0, "momentum of the scaled gradient", at_least=0, below=1)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        direction = optax.scale_by_rms(self.decay, config.eps, eps_in_sqrt=False)
        if self.momentum:
            trace = optax.trace(self.momentum, accumulator_dtype=MOMENT_DTYPES[config.moment_dtype])
            direction = optax.chain(direction, trace)
        return coupled(direction)


@OPTIMIZERS.register("adam")
def _adam(config: OptimizerOptions, kernels: Any) -> Direction:
    return coupled(scale_by_adam(config))


@OPTIMIZERS.register("adamw")
def _adamw(config: OptimizerOptions, kernels: Any) -> Direction:
    return scale_by_adam(config)


@OPTIMIZERS.register("nadamw")
def _nadamw(config: OptimizerOptions, kernels: Any) -> Direction:
    """AdamW with Nesterov momentum, as optax.nadamw."""
    return scale_by_adam(config, nesterov=True)


def scale_by_adam(
    config: OptimizerOptions, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """Adam's direction with `config`'s b1, b2, eps and dtypes of moments."""
    dtype = MOMENT_DTYPES[config.moment_dtype]
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype, nesterov=nesterov)
    return with_storage(adam, config.moment_dtype, config.second_moment_dtype)


@OPTIMIZERS.register("radam")
@dataclasses.dataclass(frozen=True)
class RAdam(OptimizerKind):
    """Rectified Adam (1908.03265), as optax.radam."""

    threshold: float = option(5.0, "variance tractability threshold", at_least=4)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        return optax.scale_by_radam(config.b1, config.b2, config.eps, threshold=self.threshold)


@OPTIMIZERS.register("adopt")
@dataclasses.dataclass(frozen=True)
class Adopt(OptimizerKind):
    """ADOPT (2411.02853), as optax.contrib.adopt; published: b2=0.9999, eps=1e-6."""

    clipping: bool = option(True, "clip the direction to step ** 0.25")

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        dtype = MOMENT_DTYPES[config.moment_dtype]
        return optax.contrib.scale_by_adopt(
            config.b1, config.b2, config.eps, dtype, use_clipping=self.clipping
        )


@OPTIMIZERS.register("ademamix")
@dataclasses.dataclass(frozen=True)
class AdEMAMix(OptimizerKind):
    """Adam with a second, slower average of gradients (2409.03137), as optax.contrib.ademamix."""

    b3: float = option(0.9999, "decay rate of the slow average", at_least=0, below=1)
    alpha: float = option(5.0, "weight of the slow average", at_least=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        dtype = MOMENT_DTYPES[config.moment_dtype]
        return optax.contrib.scale_by_ademamix(
            config.b1, config.b2, self.b3, self.alpha, config.eps, mu_dtype=dtype
        )


@OPTIMIZERS.register("lion")
def _lion(config: OptimizerOptions, kernels: Any) -> Direction:
    lion = optax.scale_by_lion(config.b1, config.b2, mu_dtype=MOMENT_DTYPES[config.moment_dtype])
    return with_storage(lion, config.moment_dtype)


@OPTIMIZERS.register("adafactor")
@dataclasses.dataclass(frozen=True)
class Adafactor(OptimizerKind):
    """Adafactor as changed for ViTs (2106.04560, section 3.4): at Adam's learning rate.

    Momentum b1, the decay of the second moment capped at b2, no scaling by the size of
    parameters. Only kernels are factored: their two largest axes are never the axis that stacks
    the layers.
    """

    min_dim_size_to_factor: int = option(
        32, "smallest second largest axis of kernels that are factored", at_least=1
    )
    decay_rate: float = option(
        0.8, "power of the decay of the second moment: 1 - t ** -decay_rate", above=0, below=1
    )
    clipping_threshold: float | None = option(
        None, "largest root mean square of a layer's direction; None: no limit", above=0
    )
    epsilon: float = option(1e-30, "added to squared gradients", at_least=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        def second_moment(factored: bool) -> optax.GradientTransformation:
            return optax.scale_by_factored_rms(
                factored,
                decay_rate=self.decay_rate,
                min_dim_size_to_factor=self.min_dim_size_to_factor,
                epsilon=self.epsilon,
                decay_rate_fn=lambda t, power: jnp.minimum(config.b2, 1 - (t + 1.0) ** -power),
            )

        others = jax.tree.map(lambda is_kernel: not is_kernel, kernels)
        parts = [
            optax.masked(second_moment(True), kernels),
            optax.masked(second_moment(False), others),
        ]
        if self.clipping_threshold is not None:
            parts.append(_clip_by_layer_rms(self.clipping_threshold))
        dtype = MOMENT_DTYPES[config.moment_dtype]
        momentum = optax.ema(config.b1, debias=False, accumulator_dtype=dtype)
        return optax.chain(*parts, momentum)


@OPTIMIZERS.register("lamb")
def _lamb(config: OptimizerOptions, kernels: Any) -> Direction:
    """LAMB (1904.00962), as optax.lamb: AdamW with a trust ratio for every layer's parameter."""

    def build(parts: Parts) -> list[optax.GradientTransformation]:
        adam = scale_by_adam(config)
        return [adam, *parts.decay, _scale_by_trust_ratio(), parts.factors, parts.rate]

    return Whole(build)


@OPTIMIZERS.register("lars")
@dataclasses.dataclass(frozen=True)
class Lars(OptimizerKind):
    """LARS (1708.03888), as optax.lars: kernels have a trust ratio, other parameters are SGD's."""

    trust_coefficient: float = option(0.001, "share of a layer's norm by which it moves", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        def build(parts: Parts) -> list[optax.GradientTransformation]:
            trust = optax.masked(_scale_by_trust_ratio(self.trust_coefficient), kernels)
            dtype = MOMENT_DTYPES[config.moment_dtype]
            momentum = optax.trace(config.momentum, config.nesterov, dtype)
            return [*parts.decay, trust, parts.factors, parts.rate, momentum]

        return Whole(build)


def _scale_by_trust_ratio(coefficient: float = 1.0) -> optax.GradientTransformation:
    """Multiplies a layer's update by the ratio of norms: parameters to update (1 if one is 0)."""

    def scale(path: str, update: jax.Array, param: jax.Array) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return jnp.sqrt(jnp.square(x).sum(axis=layer_axes(path, x.ndim), keepdims=True))

        own, other = norm(param), norm(update)
        known = (own > 0) & (other > 0)
        ratio = jnp.where(known, coefficient * own / jnp.where(known, other, 1), 1)
        return update * ratio

    return optax.stateless(lambda updates, params: map_layers(scale, updates, params))


def _clip_by_layer_rms(threshold: float) -> optax.GradientTransformation:
    """Scales a layer's update down to a root mean square of at most `threshold`."""

    def clip(path: str, update: jax.Array) -> jax.Array:
        square = jnp.square(update).mean(axis=layer_axes(path, update.ndim), keepdims=True)
        return update / jnp.maximum(1, jnp.sqrt(square) / threshold)

    return optax.stateless(lambda updates, _: map_layers(clip, updates))

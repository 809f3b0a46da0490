"""Further optimizers of optax.contrib, by their names there.

Where Optax decays all parameters, only kernels decay here, as everywhere. Sums and norms over
all parameters do not depend on how layers are stacked.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from vit_jax.errors import InputError
from vit_jax.options import option
from vit_jax.train.optim.directions.elementwise import coupled
from vit_jax.train.optim.directions.free import copied, decayed
from vit_jax.train.optim.options import (
    OPTIMIZERS,
    Direction,
    OptimizerKind,
    OptimizerOptions,
    Parts,
    Whole,
)


@OPTIMIZERS.register("acprop")
@dataclasses.dataclass(frozen=True)
class AcProp(OptimizerKind):
    """ACProp (2110.05454), as optax.contrib.acprop; published: eps=1e-16."""

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        return optax.contrib.scale_by_acprop(config.b1, config.b2, config.eps)


@OPTIMIZERS.register("simplified_ademamix")
@dataclasses.dataclass(frozen=True)
class SimplifiedAdEMAMix(OptimizerKind):
    """Simplified AdEMAMix (2502.02431), as optax.contrib; published: b1=0.99, b2=0.95."""

    alpha: float = option(0.0, "weight of the current gradient beside the average", at_least=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        return optax.contrib.scale_by_simplified_ademamix(
            config.b1, config.b2, self.alpha, config.eps
        )


@OPTIMIZERS.register("madgrad")
@dataclasses.dataclass(frozen=True)
class Madgrad(OptimizerKind):
    """MADGRAD (2101.11075), as optax.contrib.madgrad; `momentum` is config.optimizer's."""

    eps: float = option(1e-6, "added to the denominator and to the learning rate", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        def build(parts: Parts) -> list[optax.GradientTransformation]:
            whole = optax.contrib.madgrad(parts.schedule, config.momentum, eps=self.eps)
            return [*parts.decay, copied(whole), parts.factors]

        return Whole(build)


@OPTIMIZERS.register("cocob")
@dataclasses.dataclass(frozen=True)
class Cocob(OptimizerKind):
    """Coin betting (1705.07795), as optax.contrib.cocob.

    `config.optimizer.learning_rate` is a factor of the gradients: 1.
    """

    alpha: float = option(100.0, "fraction to bet", above=0)
    eps: float = option(1e-8, "added to denominators", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        def build(parts: Parts) -> list[optax.GradientTransformation]:
            rate = optax.scale_by_learning_rate(parts.schedule, flip_sign=False)
            bet = optax.contrib.scale_by_cocob(self.alpha, self.eps)
            return [*parts.decay, rate, copied(bet), parts.factors]

        return Whole(build)


@OPTIMIZERS.register("dog")
@dataclasses.dataclass(frozen=True)
class DoG(OptimizerKind):
    """Distance over gradients (2302.12022), as optax.contrib.dog; learning_rate is a factor: 1.

    The first distance is `init_step * (1 + |x0|)`, of the parameters of the first step.
    """

    init_step: float = option(1e-6, "first distance, as a share of 1 + norm of parameters", above=0)
    eps: float = option(1e-8, "added to the sum of squared norms of gradients", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        whole = optax.contrib.dog(-1.0, ("heuristic", self.init_step), self.eps)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            before, own, after = state
            # The parameters of `init` may not be those of init_from.
            first = self.init_step * (1 + optax.tree.norm(params))
            own = own._replace(max_dist=jnp.where(own.is_init_step, first, own.max_dist))
            return whole.update(gradients, (before, own, after), params)

        return coupled(copied(optax.GradientTransformation(whole.init, update)))


@OPTIMIZERS.register("dowg")
@dataclasses.dataclass(frozen=True)
class DoWG(OptimizerKind):
    """Distance over weighted gradients (2305.16284), as optax.contrib.dowg; learning_rate: 1."""

    init_estim_sq_dist: float | None = option(
        None, "first estimate of the squared distance to the solution; None: eps", above=0
    )
    eps: float = option(1e-4, "added to the denominator", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        return coupled(copied(optax.contrib.dowg(-1.0, self.init_estim_sq_dist, self.eps)))


@OPTIMIZERS.register("dadapt_adamw")
@dataclasses.dataclass(frozen=True)
class DAdaptAdamW(OptimizerKind):
    """AdamW by D-adaptation (2301.07733), as optax.contrib.dadapt_adamw; learning_rate: 1."""

    estim_lr0: float = option(1e-6, "first estimate of the learning rate", above=0)

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        def build(parts: Parts) -> list[optax.GradientTransformation]:
            whole = optax.contrib.dadapt_adamw(
                parts.schedule, (config.b1, config.b2), config.eps, self.estim_lr0
            )
            return [decayed(whole, config, parts), parts.factors]

        return Whole(build)


@OPTIMIZERS.register("momo")
@dataclasses.dataclass(frozen=True)
class Momo(OptimizerKind):
    """MoMo (2305.07583), as optax.contrib.momo: SGD with momentum and a step by the loss.

    `config.optimizer.learning_rate` is the largest rate: 1.
    """

    lower_bound: float = option(0.0, "lower bound of the loss")
    adapt_lower_bound: bool = option(False, "estimate the lower bound")

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        _refuse_decay(config, "momo")

        def build(parts: Parts) -> list[optax.GradientTransformation]:
            whole = optax.contrib.momo(
                parts.schedule, config.momentum, self.lower_bound, 0.0, self.adapt_lower_bound
            )
            return [whole, parts.factors]

        return Whole(build)


@OPTIMIZERS.register("momo_adam")
@dataclasses.dataclass(frozen=True)
class MomoAdam(OptimizerKind):
    """MoMo with Adam's moments (2305.07583), as optax.contrib.momo_adam; learning_rate: 0.01."""

    lower_bound: float = option(0.0, "lower bound of the loss")
    adapt_lower_bound: bool = option(False, "estimate the lower bound")

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        _refuse_decay(config, "momo_adam")

        def build(parts: Parts) -> list[optax.GradientTransformation]:
            whole = optax.contrib.momo_adam(
                parts.schedule,
                config.b1,
                config.b2,
                config.eps,
                self.lower_bound,
                0.0,
                self.adapt_lower_bound,
            )
            return [whole, parts.factors]

        return Whole(build)


def _refuse_decay(config: OptimizerOptions, name: str) -> None:
    if config.weight_decay:
        raise InputError(
            f"config.optimizer.name {name!r} decays all parameters or none, not kernels alone: "
            "set config.optimizer.weight_decay to 0"
        )

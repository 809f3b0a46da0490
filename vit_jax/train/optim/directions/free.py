"""Optimizers that need less of a learning rate: schedule-free learning, and Prodigy."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vit_jax import spec
from vit_jax.errors import InputError
from vit_jax.options import option
from vit_jax.train.optim.options import (
    OPTIMIZERS,
    Direction,
    OptimizerKind,
    OptimizerOptions,
    Parts,
    Whole,
    arguments,
)
from vit_jax.trees import named_leaves

# State that begins as a copy of the parameters, by the name of its field.
COPIES = ("z", "params0", "x0", "init_params", "init_particles")


class ScheduleFreeState(NamedTuple):
    """State of schedule-free learning.

    Attributes:
      step_count: number of the update, from 1.
      max_lr: largest learning rate so far.
      weight_sum: sum of the weights of the average.
      base: state of the base optimizer.
      z: parameters of the base optimizer.
    """

    step_count: jax.Array
    max_lr: jax.Array
    weight_sum: jax.Array
    base: Any
    z: Any


@OPTIMIZERS.register("schedule_free")
@dataclasses.dataclass(frozen=True)
class ScheduleFree(OptimizerKind):
    """Schedule-free learning (2405.15682), as optax.contrib.schedule_free.

    The run's parameters are the averages x: evaluations, checkpoints and predictions use them.
    Gradients are taken at y = b1 * x + (1 - b1) * z; see `gradient_point`. The base optimizer,
    without momentum, moves z. Warm-up is `config.optimizer.warmup`.
    """

    base: str = option("adamw", "base optimizer: adamw or sgd", choices=("adamw", "sgd"))
    b1: float = option(0.9, "share of the averages in the point of the gradient", above=0, below=1)
    weight_lr_power: float = option(
        2.0, "power of the largest learning rate so far in the weight of a step", at_least=0
    )

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        cooldown: Any = config.cooldown
        if config.schedule != "constant" or any(cooldown.values()):
            raise InputError(
                "config.optimizer.name 'schedule_free' replaces the decay of the learning rate: "
                "set config.optimizer.schedule='constant', without a cooldown"
            )
        if config.ema_decay:
            raise InputError(
                "config.optimizer.name 'schedule_free' averages parameters itself; set "
                "config.optimizer.ema_decay to 0"
            )
        direction = optax.identity()
        if self.base == "adamw":  # without the first moment
            direction = optax.scale_by_rms(
                config.b2, config.eps, eps_in_sqrt=False, bias_correction=True
            )

        def build(parts: Parts) -> list[optax.GradientTransformation]:
            base = optax.chain(direction, *parts.decay, parts.factors, parts.rate)
            return [self._wrap(base, parts)]

        return Whole(build)

    def _wrap(
        self, base: optax.GradientTransformation, parts: Parts
    ) -> optax.GradientTransformation:
        def init(params: Any) -> ScheduleFreeState:
            zero = jnp.zeros((), jnp.float32)
            z = jax.tree.map(jnp.copy, params)
            return ScheduleFreeState(jnp.ones((), jnp.int32), zero, zero, base.init(params), z)

        def update(
            gradients: Any, state: ScheduleFreeState, params: Any = None
        ) -> tuple[Any, ScheduleFreeState]:
            max_lr = jnp.maximum(state.max_lr, parts.schedule(state.step_count))
            weight = max_lr**self.weight_lr_power
            weight_sum = state.weight_sum + weight
            share = jnp.where(weight_sum > 0, weight / jnp.where(weight_sum > 0, weight_sum, 1), 0)
            change, base_state = base.update(gradients, state.base, self.point(params, state.z))
            z = optax.apply_updates(state.z, change)
            updates = jax.tree.map(lambda average, new: share * (new - average), params, z)
            return updates, ScheduleFreeState(
                state.step_count + 1, max_lr, weight_sum, base_state, z
            )

        return optax.GradientTransformation(init, update)

    def point(self, params: Any, z: Any) -> Any:
        """The parameters y at which the gradient is taken."""

        def between(x: jax.Array, moved: Any) -> jax.Array:
            if isinstance(moved, optax.MaskedNode):  # a frozen parameter
                return x
            return self.b1 * x + (1 - self.b1) * moved

        return jax.tree.map(between, params, z)


@OPTIMIZERS.register("prodigy")
@dataclasses.dataclass(frozen=True)
class Prodigy(OptimizerKind):
    """Prodigy (2306.06101), as optax.contrib.prodigy: it estimates the learning rate of AdamW.

    `config.optimizer.learning_rate` is a factor of the estimate: 1.
    """

    beta3: float | None = option(
        None, "decay rate of the estimate's sums; None: sqrt(b2)", at_least=0, below=1
    )
    estim_lr0: float = option(1e-6, "first estimate of the learning rate", above=0)
    estim_lr_coef: float = option(1.0, "factor of the estimate", above=0)
    safeguard_warmup: bool = option(False, "leave the learning rate out of the estimate's sum")

    def create(self, config: OptimizerOptions, kernels: Any) -> Direction:
        def build(parts: Parts) -> list[optax.GradientTransformation]:
            whole = optax.contrib.prodigy(
                parts.schedule,
                (config.b1, config.b2),
                self.beta3,
                config.eps,
                self.estim_lr0,
                self.estim_lr_coef,
                safeguard_warmup=self.safeguard_warmup,
            )
            return [decayed(copied(whole), config, parts), parts.factors]

        return Whole(build)


def decayed(
    whole: optax.GradientTransformation, config: OptimizerOptions, parts: Parts
) -> optax.GradientTransformation:
    """An estimator of AdamW's learning rate, with decoupled weight decay of kernels alone.

    While the schedule is at 0, as at the start of a warm-up, it only counts: the estimate would
    be 0 / 0.
    """

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = parts.schedule(state.count)
        count = state.count + 1
        updates, new = whole.update(gradients, state, params)
        moves = factor > 0
        updates = jax.tree.map(lambda u: jnp.where(moves, u, 0), updates)
        new = jax.tree.map(lambda n, s: jnp.where(moves, n, s), new, state)._replace(count=count)
        correction = jnp.sqrt(1 - config.b2**count) / (1 - config.b1**count)
        rate = state.estim_lr * factor * correction
        for part in parts.decay:
            zeros = jax.tree.map(jnp.zeros_like, updates)
            decay, _ = part.update(zeros, part.init(params), params)
            updates = jax.tree.map(lambda u, d: u - rate * d, updates, decay)
        return updates, new

    return optax.GradientTransformation(whole.init, update)


def copied(whole: optax.GradientTransformation) -> optax.GradientTransformation:
    """`whole` whose `init` copies the parameters, since a step reuses the memory of both."""

    def init(params: Any) -> Any:
        return whole.init(jax.tree.map(jnp.copy, params))

    return optax.GradientTransformation(init, whole.update)


def gradient_point(config: OptimizerOptions, params: Any, opt_state: Any) -> Any:
    """The parameters at which a step takes its gradient: `params`, but for schedule_free.

    Args:
      config: `config.optimizer`.
      params: parameters of the run.
      opt_state: state of its optimizer.
    """
    if spec.parse(config.name, "config.optimizer.name")[0] != "schedule_free":
        return params
    kind: ScheduleFree = arguments(OPTIMIZERS, config.name, "config.optimizer.name")

    def is_state(node: Any) -> bool:
        return isinstance(node, ScheduleFreeState)

    for state in filter(is_state, jax.tree.leaves(opt_state, is_leaf=is_state)):
        params = kind.point(params, state.z)
    return params


def copied_parameters(opt_state: Any) -> dict[str, str]:
    """Path in an optimizer's state -> path of the parameter that it begins as a copy of."""
    pattern = re.compile(rf"(.*/)?({'|'.join(COPIES)})/(.*)")
    matches = {path: pattern.fullmatch(path) for path in named_leaves(opt_state)}
    return {path: match[3] for path, match in matches.items() if match}

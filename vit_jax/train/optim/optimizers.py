"""Optimizers and parameter averages from `config.optimizer`.

Every optimizer does what torch.optim does under the same name:

* sgd and adam add `weight_decay * p` to the gradient (L2), before momentum;
* adamw, and likewise adafactor and lion, decouple the decay from the gradient:
  p <- p - lr(t) * (update + weight_decay * p).

The paper's "Adam with weight decay 0.1" is adamw here: the optimizer of its code
(flax.optim.Adam) decoupled the decay and scaled it by the learning rate.
Only kernels decay: parameters whose path ends in "kernel". Biases, norms, class
token, position embeddings and the probe of the attention pool do not.

State mirrors parameters: each moment is a nested dict like the parameters, so
that the path of a moment ends in the path of its parameter.
"""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax import spec
from vit_jax.errors import InputError
from vit_jax.options import check_section
from vit_jax.train.optim.frozen import check_used, keep_trained, map_paths, trained_tree
from vit_jax.train.optim.options import OPTIMIZERS, OptimizerOptions
from vit_jax.train.optim.schedules import Schedule, create_schedule
from vit_jax.trees import name_patterns

MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create_optimizer(
    config: OptimizerOptions, params: Any, total_steps: int, *, batch_size: int, train_size: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """The optimizer of `config.optimizer` and its learning rate per step.

    Args:
      config: `config.optimizer`.
      params: nested dict of parameters; shapes (jax.ShapeDtypeStruct) are enough.
      total_steps: length of the run.
      batch_size: examples per step, for durations in epochs or examples.
      train_size: examples per epoch, likewise.

    Returns:
      The transformation from gradients to what optax.apply_updates adds, and
      the schedule: update number (from 0) -> learning rate. Frozen parameters
      get zero updates, own no state and do not count in the clipped norm;
      frozen layers of stacked blocks keep their part of the state.

    Raises:
      InputError: an unknown optimizer or schedule, a number out of range, or a
        pattern that matches no parameter.
    """
    _check(config)
    schedule = create_schedule(config, total_steps, batch_size=batch_size, train_size=train_size)
    kernels = map_paths(lambda path: path.rsplit("/", 1)[-1] == "kernel", params)
    name, args, kwargs = spec.parse(config.name, "config.optimizer.name")
    parts = [
        _create(name, (config, kernels, *args), kwargs),
        _scale(multiplier_tree(config.multipliers, params)),
        optax.scale_by_learning_rate(schedule),
    ]
    if config.weight_decay:
        decay = optax.add_decayed_weights(config.weight_decay, kernels)
        parts.insert(0 if name in COUPLED_DECAY else 1, decay)
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    transformation = optax.chain(*parts)
    trained = trained_tree(config, params)
    if any(isinstance(mask, np.ndarray) for mask in jax.tree.leaves(trained)):
        # Weight decay and momentum must not move frozen layers either.
        transformation = optax.chain(_keep(trained), transformation, _keep(trained))
    whole = jax.tree.map(lambda mask: mask is not False, trained)
    if not all(jax.tree.leaves(whole)):
        frozen = jax.tree.map(lambda is_trained: not is_trained, whole)
        transformation = optax.chain(
            optax.masked(transformation, whole), optax.masked(optax.set_to_zero(), frozen)
        )
    return transformation, schedule


def _create(name: str, args: tuple, kwargs: dict[str, Any]) -> optax.GradientTransformation:
    create = OPTIMIZERS[name]
    try:
        inspect.signature(create).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"config.optimizer.name {name!r}: {error}") from error
    return create(*args, **kwargs)


@OPTIMIZERS.register("sgd")
def _sgd(config: OptimizerOptions, kernels: Any) -> optax.GradientTransformation:
    if not config.momentum:
        return optax.identity()
    return optax.trace(config.momentum, config.nesterov, MOMENT_DTYPES[config.moment_dtype])


@OPTIMIZERS.register("adam")
@OPTIMIZERS.register("adamw")
def _adam(config: OptimizerOptions, kernels: Any) -> optax.GradientTransformation:
    dtype = MOMENT_DTYPES[config.moment_dtype]
    return optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=dtype)


@OPTIMIZERS.register("lion")
def _lion(config: OptimizerOptions, kernels: Any) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.b1, config.b2, mu_dtype=MOMENT_DTYPES[config.moment_dtype])


@OPTIMIZERS.register("adafactor")
def _adafactor(config: OptimizerOptions, kernels: Any) -> optax.GradientTransformation:
    """Adafactor as changed for ViTs (2106.04560, section 3.4): at Adam's learning rate.

    Momentum b1, the decay of the second moment capped at b2, no scaling by the
    size of parameters. Only kernels are factored: their two largest axes are
    never the axis that stacks the layers.
    """

    def second_moment(factored: bool) -> optax.GradientTransformation:
        return optax.scale_by_factored_rms(
            factored,
            min_dim_size_to_factor=32,
            decay_rate_fn=lambda t, power: jnp.minimum(config.b2, 1 - (t + 1.0) ** -power),
        )

    others = jax.tree.map(lambda is_kernel: not is_kernel, kernels)
    return optax.chain(
        optax.masked(second_moment(True), kernels),
        optax.masked(second_moment(False), others),
        optax.ema(config.b1, debias=False, accumulator_dtype=MOMENT_DTYPES[config.moment_dtype]),
    )


COUPLED_DECAY = ("sgd", "adam")


def multiplier_tree(pairs: Sequence[tuple[str, float]], params: Any) -> Any:
    """The learning rate factor of every parameter, from the first pattern that matches.

    Args:
      pairs: (pattern, factor); a pattern is a regular expression for the whole
        path: "head/.*" is not "map_head/probe".
      params: nested dict.

    Raises:
      InputError: a pattern that is not a regular expression or is never the first to
        match, or a factor that is not above zero.
    """
    where = "optimizer.multipliers"
    for pair in pairs:
        if (
            not isinstance(pair, Sequence)
            or len(pair) != 2
            or not isinstance(pair[1], (int, float))
            or not pair[1] > 0
        ):
            raise InputError(
                f"config.{where}: {pair!r} is no (pattern, factor above 0); "
                "config.optimizer.freeze keeps parameters as they are"
            )
    patterns = name_patterns([pattern for pattern, _ in pairs], f"config.{where}")
    first = map_paths(
        lambda path: next((i for i, p in enumerate(patterns) if p.fullmatch(path)), -1), params
    )
    check_used(patterns, set(jax.tree.leaves(first)), where, params)
    return jax.tree.map(lambda i: pairs[i][1] if i >= 0 else 1.0, first)


def _keep(trained: Any) -> optax.GradientTransformation:
    """Sets updates of frozen layers to zero; masked updates stay masked."""

    def keep(mask: Any, update: Any) -> Any:
        return jax.tree.map(lambda x: keep_trained(mask, x), update)

    return optax.stateless(lambda updates, _: jax.tree.map(keep, trained, updates))


def update_ema(ema: Any, params: Any, decay: float, step: jax.typing.ArrayLike) -> Any:
    """Polyak averages after update number `step` (from 0); the paper's decay is .9999.

    Constant decay with its start corrected as in Adam's moments: parameters of k
    updates ago weigh decay**k, the initial ones nothing, and weights sum to 1. So
    a run shorter than 1 / (1 - decay) steps averages evenly instead of keeping
    its initial values. `decay` is in (0, 1); `ema` may start as anything finite.
    """
    log_decay = math.log(decay)
    updates = jnp.asarray(step, jnp.float32) + 1
    rate = jnp.minimum(math.expm1(log_decay) / jnp.expm1(updates * log_decay), 1)
    return jax.tree.map(lambda average, p: average + rate * (p - average), ema, params)


def _check(config: OptimizerOptions) -> None:
    check_section(OptimizerOptions, config, "config.optimizer")
    if config.name == "sgd" and config.nesterov and not config.momentum:
        raise InputError("config.optimizer.nesterov needs config.optimizer.momentum above 0")


def _scale(factors: Any) -> optax.GradientTransformation:
    """Multiplies every update by its factor; masked updates stay masked."""

    def scale(factor: float, update: Any) -> Any:
        return update if factor == 1 else jax.tree.map(lambda x: factor * x, update)

    return optax.stateless(lambda updates, _: jax.tree.map(scale, factors, updates))

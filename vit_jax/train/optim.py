"""Schedules, optimizers and parameter averages from `config.optimizer`.

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

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax import spec
from vit_jax.durations import in_steps
from vit_jax.errors import InputError, nearest
from vit_jax.options import Duration, check_section, option
from vit_jax.registry import Registry
from vit_jax.trees import name_patterns, path_name

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]

MOMENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# Name -> (options, which parameters are kernels, the arguments in parentheses) -> the
# transformation of gradients into a direction, before learning rate and decoupled decay.
OPTIMIZERS: Registry[Callable[..., optax.GradientTransformation]] = Registry("optimizer")
# Name -> (steps since the peak, steps from there to the end, options) -> share of the peak rate.
SCHEDULES: Registry[Callable[..., jax.Array]] = Registry("schedule")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """`config.optimizer`. Patterns are regular expressions for whole paths, as "head/.*"."""

    name: str = option(
        "adamw", "optimizer: sgd, adam, adamw, adafactor or lion", choices=OPTIMIZERS
    )
    learning_rate: float = option(1e-3, "peak learning rate, reached after warm-up", at_least=0)
    momentum: float = option(0.9, "momentum of sgd", at_least=0, below=1)
    nesterov: bool = option(False, "use Nesterov momentum in sgd")
    b1: float = option(
        0.9,
        "beta 1 of adam and adamw (decay rate of the first moment) and of lion; momentum of "
        "adafactor",
        at_least=0,
        below=1,
    )
    b2: float = option(
        0.999,
        "beta 2 of adam and adamw (decay rate of the second moment) and of lion (0.99 suits it); "
        "in adafactor the upper limit of that rate",
        at_least=0,
        below=1,
    )
    eps: float = option(1e-8, "epsilon of adam and adamw", at_least=0)
    moment_dtype: str = option(
        "float32",
        "dtype in which the first moment or momentum is stored: float32 or bfloat16",
        choices=("float32", "bfloat16"),
    )
    weight_decay: float = option(
        0.0,
        "weight decay, of kernels only, as in torch.optim under the same name. adamw, adafactor, "
        "lion: p <- p - lr(t) * (update + weight_decay * p). sgd, adam: weight_decay * p is added "
        "to the gradient (L2). The paper's Adam is adamw",
        at_least=0,
    )
    clip_norm: float = option(
        0.0, "largest global norm of the gradient, to which it is clipped; 0: off", at_least=0
    )
    schedule: str = option(
        "cosine",
        "learning rate after warm-up: constant, linear, cosine or rsqrt (inverse square root)",
        choices=SCHEDULES,
    )
    warmup: Duration = option(
        Duration(steps=0), "length of the linear warm-up from 0 to learning_rate"
    )
    cooldown: Duration = option(
        Duration(steps=0), "length of the linear decay to end_value at the end of the run"
    )
    end_value: float = option(
        0.0,
        "final learning rate of linear, cosine and the cooldown, as a share of learning_rate",
        at_least=0,
    )
    rsqrt_timescale: int = option(
        10_000,
        "for schedule rsqrt: number of steps after warm-up in which the learning rate falls by a "
        "factor of sqrt(2)",
        above=0,
    )
    multipliers: tuple[tuple[str, float], ...] = option(
        (),
        "(pattern, factor) pairs: the learning rate is multiplied by the factor for parameters "
        "whose whole path matches the regular expression; the first match counts",
    )
    freeze: tuple[str, ...] = option(
        (), "regular expressions for whole parameter paths: these parameters are not trained"
    )
    ema_decay: float = option(
        0.0,
        "decay rate of the moving average (EMA, Polyak) of the parameters; 0: no average; the "
        "paper's: 0.9999",
        at_least=0,
        below=1,
    )


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
      get zero updates, own no state and do not count in the clipped norm.

    Raises:
      InputError: an unknown optimizer or schedule, a number out of range, or a
        pattern that matches no parameter.
    """
    _check(config)
    schedule = create_schedule(config, total_steps, batch_size=batch_size, train_size=train_size)
    kernels = _map_paths(lambda path: path.rsplit("/", 1)[-1] == "kernel", params)
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
    frozen = frozen_tree(config.freeze, params)
    if any(jax.tree.leaves(frozen)):
        trained = jax.tree.map(lambda is_frozen: not is_frozen, frozen)
        transformation = optax.chain(
            optax.masked(transformation, trained), optax.masked(optax.set_to_zero(), frozen)
        )
    return transformation, schedule


def create_schedule(
    config: OptimizerOptions, total_steps: int, *, batch_size: int, train_size: int
) -> Schedule:
    """The learning rate of update t = 0, 1, ...; see `create_optimizer`.

    With a warm-up of w steps, the rate grows linearly from 0 and reaches its peak at t = w. It
    then decays until the end of the run. The cooldown takes the decayed rate linearly to the
    end value.
    """
    warmup, cooldown = (
        in_steps(duration, name=f"optimizer.{name}", batch_size=batch_size, train_size=train_size)
        or 0
        for name, duration in (("warmup", config.warmup), ("cooldown", config.cooldown))
    )
    if warmup + cooldown > total_steps:
        raise InputError(
            f"config.optimizer: a warm-up of {warmup} and a cooldown of {cooldown} steps do not "
            f"fit a run of {total_steps} steps; shorten them or lengthen config.total"
        )
    decay, end = SCHEDULES[config.schedule], config.end_value

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        since_peak = jnp.maximum(step - warmup, 0)
        share = decay(since_peak, max(total_steps - warmup, 1), config)
        if warmup:
            share = share * jnp.minimum(step / warmup, 1)
        if cooldown:
            left = jnp.clip((total_steps - step) / cooldown, 0, 1)
            share = end + (share - end) * left
        return config.learning_rate * share

    return schedule


def _create(name: str, args: tuple, kwargs: dict[str, Any]) -> optax.GradientTransformation:
    create = OPTIMIZERS[name]
    try:
        inspect.signature(create).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"config.optimizer.name {name!r}: {error}") from error
    return create(*args, **kwargs)


@SCHEDULES.register("constant")
def _constant(step: jax.Array, total: int, config: OptimizerOptions) -> jax.Array:
    return jnp.ones_like(step)


@SCHEDULES.register("linear")
def _linear(step: jax.Array, total: int, config: OptimizerOptions) -> jax.Array:
    return 1 + (config.end_value - 1) * jnp.minimum(step / total, 1)


@SCHEDULES.register("cosine")
def _cosine(step: jax.Array, total: int, config: OptimizerOptions) -> jax.Array:
    half_wave = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1)))
    return config.end_value + (1 - config.end_value) * half_wave


@SCHEDULES.register("rsqrt")
def _rsqrt(step: jax.Array, total: int, config: OptimizerOptions) -> jax.Array:
    """Reciprocal square root, shifted to start at 1 (2106.04560, section 3.5)."""
    return jax.lax.rsqrt(1 + step / config.rsqrt_timescale)


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
    first = _map_paths(
        lambda path: next((i for i, p in enumerate(patterns) if p.fullmatch(path)), -1), params
    )
    _check_used(patterns, set(jax.tree.leaves(first)), where, params)
    return jax.tree.map(lambda i: pairs[i][1] if i >= 0 else 1.0, first)


def frozen_tree(patterns: Sequence[str], params: Any) -> Any:
    """Whether each parameter is frozen: those with a path that matches a pattern.

    Raises:
      InputError: a pattern that is not a regular expression or matches nothing, or
        patterns that leave nothing to train.
    """
    where = "optimizer.freeze"
    compiled = name_patterns(patterns, f"config.{where}")
    matches = _map_paths(
        lambda path: frozenset(i for i, p in enumerate(compiled) if p.fullmatch(path)), params
    )
    _check_used(compiled, set().union(*jax.tree.leaves(matches)), where, params)
    frozen = jax.tree.map(bool, matches)
    if all(jax.tree.leaves(frozen)):
        raise InputError(f"config.{where} matches every parameter; nothing is left to train")
    return frozen


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


def _map_paths(function: Callable[[str], Any], params: Any) -> Any:
    """A tree like `params` of `function("blocks/norm1/scale")` at every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_name(path)), params)


def _check_used(patterns: list[re.Pattern], used: set[int], where: str, params: Any) -> None:
    paths = jax.tree.leaves(_map_paths(str, params))
    for pattern in (pattern for i, pattern in enumerate(patterns) if i not in used):
        name = f"config.{where}: {pattern.pattern!r}"
        if any(pattern.fullmatch(path) for path in paths):
            raise InputError(f"{name} matches nothing that an earlier pattern leaves; put it first")
        raise InputError(
            f"{name} matches no parameter{nearest(pattern.pattern, paths)}; a pattern is a "
            "regular expression for the whole path, such as 'head/.*'"
        )

"""The learning rate of every step, from `config.optimizer`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.durations import in_steps
from vit_jax.errors import InputError
from vit_jax.train.optim.options import SCHEDULES, OptimizerOptions

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def create_schedule(
    config: OptimizerOptions, total_steps: int, *, batch_size: int, train_size: int
) -> Schedule:
    """The learning rate of update t = 0, 1, ...; see `create_optimizer`.

    With a warm-up of w steps, the rate grows linearly from 0 and reaches its peak at t = w. It
    then decays until the horizon, which is the end of the run unless `config.horizon` is set. The
    tail follows. The cooldown takes the rate linearly to the end value at the end of the run.

    Raises:
      InputError: the durations do not fit into the run, or the tail would train nothing.
    """
    names = ("warmup", "cooldown", "horizon")
    steps = {
        name: in_steps(
            getattr(config, name),
            name=f"optimizer.{name}",
            batch_size=batch_size,
            train_size=train_size,
        )
        for name in names
    }
    warmup, cooldown = steps["warmup"] or 0, steps["cooldown"] or 0
    horizon = steps["horizon"] or total_steps
    _check_lengths(config, warmup, cooldown, horizon, total_steps)
    decay, end = SCHEDULES[config.schedule], config.end_value

    def decayed(since_peak: jax.Array) -> jax.Array:
        return decay(since_peak, max(horizon - warmup, 1), config)

    tail_steps = total_steps - horizon
    first = _tail_value(config, lambda: float(decayed(jnp.float32(horizon - warmup))))
    if tail_steps > 0 and not first:
        raise InputError(
            f"config.optimizer: the learning rate is 0 at the horizon, step {horizon}, and stays 0 "
            "after it; set config.optimizer.tail_value, a share of the peak such as 0.1"
        )

    def tail(since: jax.Array) -> jax.Array:
        if config.tail == "restart":
            return first * decay(since, tail_steps, config)
        if config.tail == "linear":
            return first + (end - first) * jnp.minimum(since / tail_steps, 1)
        return jnp.full_like(since, first)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        share = decayed(jnp.maximum(step - warmup, 0))
        if warmup:
            share = share * jnp.minimum(step / warmup, 1)
        if tail_steps > 0:
            share = jnp.where(step < horizon, share, tail(jnp.maximum(step - horizon, 0)))
        if cooldown:
            left = jnp.clip((total_steps - step) / cooldown, 0, 1)
            share = end + (share - end) * left
        return config.learning_rate * share

    return schedule


def _tail_value(config: OptimizerOptions, last: Callable[[], float]) -> float:
    """The share of the peak rate with which the tail begins; `last`: where the schedule ended."""
    if config.tail_value is not None:
        return config.tail_value
    return 1.0 if config.tail == "restart" else last()


def _check_lengths(
    config: OptimizerOptions, warmup: int, cooldown: int, horizon: int, total_steps: int
) -> None:
    limits: list[tuple[tuple[str, ...], int, str]] = [
        (("warmup", "cooldown"), total_steps, "config.total")
    ]
    if horizon != total_steps:
        limits.append((("warmup",), horizon, "config.optimizer.horizon"))
    for names, limit, lengthen in limits:
        steps = dict(warmup=warmup, cooldown=cooldown)
        if sum(steps[name] for name in names) <= limit:
            continue
        parts = [_told(name, config, steps[name]) for name in names if steps[name]]
        raise InputError(
            f"{' and '.join(parts)}: longer than {lengthen}, {limit} steps; lengthen that, or "
            "shorten the other (--config.optimizer.warmup.steps=N)"
        )


def _told(name: str, config: OptimizerOptions, steps: int) -> str:
    """A duration as it was set, and in steps: "config.optimizer.warmup.epochs=4.0 is 92 steps"."""
    entry: Any = getattr(config, name)
    unit, value = next((unit, value) for unit, value in entry.items() if value is not None)
    return f"config.optimizer.{name}.{unit}={value} is {steps} steps"


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

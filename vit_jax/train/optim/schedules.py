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
    Where warm-up and cooldown together are longer than the run, as where a config's run is
    shortened, each takes at most a tenth of it (`shortened`).

    Raises:
      InputError: a warm-up longer than the horizon, or the tail would train nothing.
    """
    steps = _in_steps(config, batch_size, train_size)
    horizon = steps["horizon"] or total_steps
    warmup, cooldown = _fitted(steps, total_steps)
    if warmup > horizon:
        raise InputError(
            f"{_told('warmup', config, warmup)}: longer than config.optimizer.horizon, {horizon} "
            "steps; lengthen that, or shorten the other (--config.optimizer.warmup.steps=N)"
        )
    decay, end = SCHEDULES[config.schedule], config.end_value

    def decayed(since_peak: jax.Array) -> jax.Array:
        return decay(since_peak, max(horizon - warmup, 1), config)

    tail_steps = total_steps - horizon
    first = 0.0
    if tail_steps > 0:
        first = _tail_value(config, lambda: float(decayed(jnp.float32(horizon - warmup))))
        if not first:
            raise InputError(
                f"config.optimizer: the learning rate is 0 at the horizon, step {horizon}, and "
                "stays 0 after it; set config.optimizer.tail_value, a share of the peak such as 0.1"
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


def shortened(
    config: OptimizerOptions, total_steps: int, *, batch_size: int, train_size: int
) -> str:
    """What is to be said where warm-up and cooldown do not fit into the run; "" where they do."""
    steps = _in_steps(config, batch_size, train_size)
    fitted = dict(zip(("warmup", "cooldown"), _fitted(steps, total_steps), strict=True))
    parts = [
        f"{_told(name, config, given)} and takes {fitted[name]} of them"
        for name in fitted
        if (given := steps[name]) and fitted[name] != given
    ]
    return f"the run has {total_steps} steps: {', '.join(parts)}" if parts else ""


def _in_steps(config: OptimizerOptions, batch_size: int, train_size: int) -> dict[str, int | None]:
    about: dict[str, int] = dict(batch_size=batch_size, train_size=train_size)
    return {
        name: in_steps(getattr(config, name), name=f"optimizer.{name}", **about)
        for name in ("warmup", "cooldown", "horizon")
    }


def _fitted(steps: dict[str, int | None], total_steps: int) -> tuple[int, int]:
    """The steps of warm-up and cooldown; at most a tenth of the run each, if they do not fit."""
    warmup, cooldown = steps["warmup"] or 0, steps["cooldown"] or 0
    if warmup + cooldown <= total_steps:
        return warmup, cooldown
    return min(warmup, total_steps // 10), min(cooldown, total_steps // 10)


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

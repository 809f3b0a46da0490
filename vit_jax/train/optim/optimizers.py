"""Optimizers from `config.optimizer`.

sgd, rmsprop and adam add `weight_decay * p` to the gradient (L2), before momentum, as in
torch.optim; others decouple the decay from it: p <- p - lr(t) * (update + weight_decay * p).

The paper's "Adam with weight decay 0.1" is adamw here: the optimizer of its code
(flax.optim.Adam) decoupled the decay and scaled it by the learning rate.
Only kernels decay: parameters whose path ends in "kernel". Biases, norms, class
token, position embeddings and the probe of the attention pool do not.

State mirrors parameters: each moment is a nested dict like the parameters, so
that the path of a moment ends in the path of its parameter.
"""

from typing import Any

import jax
import numpy as np
import optax

from vit_jax import spec
from vit_jax.errors import InputError
from vit_jax.options import check_section
from vit_jax.train.optim.clipping import clippings
from vit_jax.train.optim.frozen import keep_trained, trained_tree
from vit_jax.train.optim.matrices import map_paths
from vit_jax.train.optim.options import (
    EMA_WARMUPS,
    OPTIMIZERS,
    Direction,
    OptimizerOptions,
    Parts,
    Whole,
    arguments,
)
from vit_jax.train.optim.rates import layer_factors, multiplier_tree, scale_by_factors
from vit_jax.train.optim.schedules import Schedule, create_schedule


def create_optimizer(
    config: OptimizerOptions,
    params: Any,
    total_steps: int,
    *,
    batch_size: int,
    train_size: int,
    pooled_norm: bool = False,
) -> tuple[optax.GradientTransformationExtraArgs, Schedule]:
    """The optimizer of `config.optimizer` and its learning rate per step.

    Args:
      config: `config.optimizer`.
      params: nested dict of parameters; shapes (jax.ShapeDtypeStruct) are enough.
      total_steps: length of the run.
      batch_size: examples per step, for durations in epochs or examples.
      train_size: examples per epoch, likewise.
      pooled_norm: whether the model's last norm follows the pooling; see `layer_factors`.

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
    factors = [scale_by_factors(multiplier_tree(config.multipliers, params))]
    if config.layer_decay != 1:
        by_layer = layer_factors(
            params, config.layer_decay, config.layer_decay_min, pooled_norm=pooled_norm
        )
        factors.append(scale_by_factors(by_layer))
    decay = config.weight_decay
    parts = Parts(
        decay=(optax.add_decayed_weights(decay, kernels),) if decay else (),
        factors=factors[0] if len(factors) == 1 else optax.chain(*factors),
        rate=optax.scale_by_learning_rate(schedule),
        schedule=schedule,
    )
    direction = _create(config, kernels)
    if isinstance(direction, Whole):
        steps = direction.build(parts)
    else:
        steps = [direction, *parts.decay, parts.factors, parts.rate]
    transformation = optax.chain(*clippings(config), *steps)
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
    return optax.with_extra_args_support(transformation), schedule


def _create(config: OptimizerOptions, kernels: Any) -> Direction:
    where = "config.optimizer.name"
    name, args, kwargs = spec.parse(config.name, where)
    create = OPTIMIZERS[name]
    if isinstance(create, type):
        return arguments(OPTIMIZERS, config.name, where).create(config, kernels)
    spec.check_arguments(create, config.name, where, given=2)
    spec.check_types(create, config.name, where, given=2)
    return create(config, kernels, *args, **kwargs)


def _keep(trained: Any) -> optax.GradientTransformation:
    """Sets updates of frozen layers to zero; masked updates stay masked."""

    def keep(mask: Any, update: Any) -> Any:
        return jax.tree.map(lambda x: keep_trained(mask, x), update)

    return optax.stateless(lambda updates, _: jax.tree.map(keep, trained, updates))


# Optimizers that store their moments as the options say, beside those of users.
_FLOAT32_ALONE = (
    *("radam", "prodigy", "schedule_free", "acprop", "simplified_ademamix", "madgrad"),
    *("cocob", "dog", "dowg", "dadapt_adamw", "momo", "momo_adam"),
)
_IN_8_BITS = ("sgd", "lion", "adam", "adamw", "nadamw", "lamb")
_TWO_MOMENTS = ("adam", "adamw", "nadamw", "lamb")


def _check(config: OptimizerOptions) -> None:
    check_section(OptimizerOptions, config, "config.optimizer")
    name = config.name.partition("(")[0].strip()
    for option, dtype, fits in (
        (
            "moment_dtype",
            config.moment_dtype,
            name in _IN_8_BITS if config.moment_dtype == "8bit" else name not in _FLOAT32_ALONE,
        ),
        ("second_moment_dtype", config.second_moment_dtype, name in _TWO_MOMENTS),
    ):
        if dtype != "float32" and not fits:
            raise InputError(
                f"config.optimizer.{option}={dtype!r} does not go with optimizer {name}; set it to "
                "'float32', or choose adamw"
            )
    arguments(EMA_WARMUPS, config.ema_warmup, "config.optimizer.ema_warmup")
    if config.ema_warmup != "corrected" and not config.ema_decay:
        raise InputError("config.optimizer.ema_warmup needs config.optimizer.ema_decay above 0")
    if config.layer_decay_min and config.layer_decay == 1:
        raise InputError(
            "config.optimizer.layer_decay_min needs config.optimizer.layer_decay below 1"
        )
    if config.name == "sgd" and config.nesterov and not config.momentum:
        raise InputError("config.optimizer.nesterov needs config.optimizer.momentum above 0")

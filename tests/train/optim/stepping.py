"""Steps of an optimizer with given gradients, for the tests beside it."""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from vit_jax.config import default
from vit_jax.train.optim import create_optimizer


def nested(flat):
    """{"a/b": array} as nested dicts of JAX arrays."""
    return traverse_util.unflatten_dict({k: jnp.asarray(v) for k, v in flat.items()}, sep="/")


def descend(tx, params, gradients, see=lambda params, state: None):
    """Parameters after a step with each of the gradients; `see` looks at each result."""

    @jax.jit
    def step(params, state, gradient):
        value = optax.tree.norm(params)  # a loss, for optimizers that see it
        updates, state = tx.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    tx = optax.with_extra_args_support(tx)
    state = tx.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
        see(params, state)
    return params


def create(params, *, steps=10, **options):
    """The optimizer of these options, at a constant rate of 0.1 if nothing else is said."""
    config = default().optimizer
    config.update(dict(learning_rate=0.1, schedule="constant") | options)
    return create_optimizer(config, params, steps, batch_size=1, train_size=1)[0]


def run(start, gradients, **options):
    """Flat parameters after a step with each of the flat gradients."""
    params = nested(start)
    tx = create(params, **options)
    return traverse_util.flatten_dict(descend(tx, params, map(nested, gradients)), sep="/")

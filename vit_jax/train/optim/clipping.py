"""Clipping of gradients: adaptively, by value, by global norm, in this order."""

import re

import jax
import jax.numpy as jnp
import optax

from vit_jax.train.optim.matrices import map_layers, unit_axes
from vit_jax.train.optim.options import OptimizerOptions

ADAPTIVE_LEAST_NORM = 1e-3  # of a parameter, so that zeros can grow (2102.06171, equation 3)
# The classifier is not clipped adaptively (2102.06171, section 4.1).
CLASSIFIER = re.compile(r"(head|head_dist)/.*")


def clippings(config: OptimizerOptions) -> list[optax.GradientTransformation]:
    """The transformations of `clip_adaptive`, `clip_value` and `clip_norm` that are on."""
    parts = []
    if config.clip_adaptive:
        parts.append(clip_adaptively(config.clip_adaptive))
    if config.clip_value:
        parts.append(optax.clip(config.clip_value))
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    return parts


def clip_adaptively(limit: float) -> optax.GradientTransformation:
    """Adaptive gradient clipping (2102.06171, section 4): by the norm of each unit's parameters.

    A unit's gradient is scaled down to `limit` times the norm of its parameters. A unit is an
    output of a kernel; of biases, norms and embeddings it is a layer's whole parameter.
    """

    def norm(path: str, x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.square(x).sum(axis=unit_axes(path, x.ndim), keepdims=True))

    def clip(path: str, gradient: jax.Array, param: jax.Array) -> jax.Array:
        if CLASSIFIER.fullmatch(path):
            return gradient
        size = norm(path, gradient)
        largest = limit * jnp.maximum(norm(path, param), ADAPTIVE_LEAST_NORM)
        scaled = gradient * (largest / jnp.maximum(size, 1e-6))
        return jnp.where(size > largest, scaled, gradient)

    return optax.stateless(lambda updates, params: map_layers(clip, updates, params))

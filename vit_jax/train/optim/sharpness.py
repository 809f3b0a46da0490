"""Sharpness-aware minimisation (SAM, 2010.01412): the gradient at a nearby, worse point."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.train.optim.options import OptimizerOptions
from vit_jax.train.optim.rates import frozen_tree

LEAST_NORM = 1e-12


def ascend(config: OptimizerOptions, params: Any, gradients: Any) -> Any:
    """The parameters at distance `sam_rho` up the gradient (equation 2, with p = 2).

    The step takes its gradient there and applies it to the parameters where it began. Frozen
    parameters stay, and do not count in the norm.

    Args:
      config: `config.optimizer`.
      params: parameters where the step begins.
      gradients: gradients there, of the global batch.
    """
    frozen = frozen_tree(config.freeze, params)
    gradients = jax.tree.map(
        lambda fixed, gradient: jnp.zeros_like(gradient) if fixed else gradient, frozen, gradients
    )
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
    scale = config.sam_rho / jnp.maximum(norm, LEAST_NORM)
    return jax.tree.map(lambda param, gradient: param + scale * gradient, params, gradients)

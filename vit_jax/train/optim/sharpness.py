"""Sharpness-aware minimisation (SAM, 2010.01412): the gradient at a nearby, worse point."""

from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.train.optim.options import OptimizerOptions

LEAST_NORM = 1e-12


def ascend(config: OptimizerOptions, params: Any, gradients: Any) -> Any:
    """The parameters at distance `sam_rho` up the gradient (equation 2, with p = 2).

    The step takes its gradient there and applies it to the parameters where it began.

    Args:
      config: `config.optimizer`.
      params: parameters where the step begins.
      gradients: gradients there, of the global batch; those of frozen parameters are zero.
    """
    norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))
    scale = config.sam_rho / jnp.maximum(norm, LEAST_NORM)
    return jax.tree.map(lambda param, gradient: param + scale * gradient, params, gradients)

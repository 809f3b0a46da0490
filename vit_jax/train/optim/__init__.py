"""Optimizers and learning rate schedules; see `options` for `config.optimizer`."""

from vit_jax.train.optim.frozen import count_trained, trained_tree
from vit_jax.train.optim.methods import METHODS, apply_method
from vit_jax.train.optim.optimizers import create_optimizer, update_ema
from vit_jax.train.optim.options import OPTIMIZERS, SCHEDULES, OptimizerOptions
from vit_jax.train.optim.schedules import Schedule, create_schedule

__all__ = [
    "METHODS",
    "OPTIMIZERS",
    "SCHEDULES",
    "OptimizerOptions",
    "Schedule",
    "apply_method",
    "count_trained",
    "create_optimizer",
    "create_schedule",
    "trained_tree",
    "update_ema",
]

"""Optimizers and learning rate schedules; see `options` for `config.optimizer`."""

from vit_jax.train.optim.averages import update_ema
from vit_jax.train.optim.directions.free import copied_parameters, gradient_point
from vit_jax.train.optim.frozen import count_trained, differentiated, trained_tree
from vit_jax.train.optim.optimizers import create_optimizer
from vit_jax.train.optim.options import (
    OPTIMIZERS,
    SCHEDULES,
    Direction,
    OptimizerKind,
    OptimizerOptions,
    Parts,
    Whole,
)
from vit_jax.train.optim.schedules import Schedule, create_schedule, shortened
from vit_jax.train.optim.sharpness import ascend

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Direction",
    "OptimizerKind",
    "OptimizerOptions",
    "Parts",
    "Schedule",
    "Whole",
    "ascend",
    "copied_parameters",
    "count_trained",
    "create_optimizer",
    "create_schedule",
    "differentiated",
    "gradient_point",
    "shortened",
    "trained_tree",
    "update_ema",
]

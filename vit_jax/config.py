"""Functions for config files: `default()` (all options), `evaluation()`, `duration()`.

`vit_jax.train.config` says where an option is declared, with its meaning.
"""

from vit_jax.durations import duration, in_steps
from vit_jax.evaluate.evaluation import evaluation
from vit_jax.train.config import check, default, is_free

__all__ = ["check", "default", "duration", "evaluation", "in_steps", "is_free"]

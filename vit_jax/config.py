"""Config files start here: `default()` has every option, `evaluation()` and `duration()` parts.

Where an option is declared, with its meaning: see `vit_jax.train.config`.
"""

from vit_jax.durations import duration, in_steps
from vit_jax.evaluate.evaluation import evaluation
from vit_jax.train.config import check, default, is_free

__all__ = ["check", "default", "duration", "evaluation", "in_steps", "is_free"]

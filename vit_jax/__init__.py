"""vit_jax trains Vision Transformers (2010.11929) in JAX, from a laptop to a pod."""

import importlib
from typing import TYPE_CHECKING, Any

from vit_jax.errors import InputError

if TYPE_CHECKING:
    from vit_jax.checkpoint.load import load
    from vit_jax.config_files import load_config
    from vit_jax.evaluate.images import predict
    from vit_jax.evaluate.stored import evaluate_checkpoint as evaluate
    from vit_jax.finetune.run import finetune
    from vit_jax.models import create_model
    from vit_jax.train.loop import train
    from vit_jax.weights.published import list_models

__version__ = "0.1.0"

# Loaded on first use, so that `import vit_jax` costs next to nothing.
_LAZY = {
    "create_model": "vit_jax.models",
    "list_models": "vit_jax.weights.published",
    "load": "vit_jax.checkpoint",
    "load_config": "vit_jax.config_files",
    "predict": "vit_jax.evaluate.images",
}
# Packages that can be called.
_CALLED = ("evaluate", "finetune", "train")
__all__ = [
    "InputError",
    "__version__",
    "create_model",
    "evaluate",
    "finetune",
    "list_models",
    "load",
    "load_config",
    "predict",
    "train",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _CALLED:
        return importlib.import_module(f"vit_jax.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'vit_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)

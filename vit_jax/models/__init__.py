"""Models: pure Flax NNX modules, arrays in, arrays out."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from vit_jax.models.variants import (
    build_model,
    create_model,
    derived_config,
    identify,
    list_models,
    model_config,
)

__all__ = [
    "abstract",
    "build_model",
    "create_model",
    "derived_config",
    "identify",
    "list_models",
    "merge",
    "model_config",
    "split",
]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """A module as its static structure and a nested dict of parameter arrays."""
    graphdef, params = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def merge(graphdef: nnx.GraphDef, params: dict[str, Any]) -> nnx.Module:
    """The inverse of `split`, usable inside a jitted function."""
    return nnx.merge(graphdef, params)


def abstract(create: Callable[[nnx.Rngs], nnx.Module]) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """`split` of a model that is never computed: parameters are ShapeDtypeStructs."""
    return split(nnx.eval_shape(lambda: create(nnx.Rngs(0))))

"""Models: pure Flax NNX modules, arrays in, arrays out."""

from typing import Any

from flax import nnx

from vit_jax.models.zoo import create_model, list_models, model_config

__all__ = ["create_model", "list_models", "merge", "model_config", "split"]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """A module as its static structure and a nested dict of parameter arrays."""
    graphdef, params = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def merge(graphdef: nnx.GraphDef, params: dict[str, Any]) -> nnx.Module:
    """The inverse of `split`, usable inside a jitted function."""
    return nnx.merge(graphdef, params)

"""Factors of the learning rate that differ between parameters."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.errors import InputError
from vit_jax.train.optim.frozen import check_used
from vit_jax.train.optim.matrices import is_stacked, map_paths
from vit_jax.trees import name_patterns, named_leaves

# Parameters before the first block: layer 0 of layer-wise decay.
EMBEDDINGS = re.compile(
    r"(cls|dist|registers|(embedding|patch_norm|norm_pre|posemb|rotary|position_bias|stem)/.*"
    r"|masked/embedding)"
)
FINAL_NORM = re.compile(r"norm/.*")


def multiplier_tree(pairs: Sequence[tuple[str, float]], params: Any) -> Any:
    """The learning rate factor of every parameter, from the first pattern that matches.

    Args:
      pairs: (pattern, factor); a pattern is a regular expression for the whole
        path: "head/.*" is not "map_head/probe".
      params: nested dict.

    Raises:
      InputError: a pattern that is not a regular expression or is never the first to
        match, or a factor that is not above zero.
    """
    where = "optimizer.multipliers"
    for pair in pairs:
        if (
            not isinstance(pair, Sequence)
            or len(pair) != 2
            or not isinstance(pair[1], (int, float))
            or not pair[1] > 0
        ):
            raise InputError(
                f"config.{where}: {pair!r} is no (pattern, factor above 0); "
                "config.optimizer.freeze keeps parameters as they are"
            )
    patterns = name_patterns([pattern for pattern, _ in pairs], f"config.{where}")
    first = map_paths(
        lambda path: next((i for i, p in enumerate(patterns) if p.fullmatch(path)), -1), params
    )
    check_used(patterns, set(jax.tree.leaves(first)), where, params)
    return jax.tree.map(lambda i: pairs[i][1] if i >= 0 else 1.0, first)


def layer_factors(params: Any, decay: float, least: float = 0.0, *, pooled_norm: bool) -> Any:
    """The learning rate factors of layer-wise decay (2106.08254, appendix; as in timm).

    decay ** (L + 1 - l) for layer l: embeddings are layer 0, blocks 1 to L, and everything after
    them L + 1. The last norm counts as block L, or as L + 1 if it follows the pooling.

    Args:
      params: nested dict of parameters or shapes.
      decay: factor from a layer to the one before it, above 0.
      least: smallest factor.
      pooled_norm: whether the last norm follows the pooling.

    Returns:
      A tree like `params`: a factor, or for stacked blocks a vector (layers,).

    Raises:
      InputError: the model has no stacked blocks.
    """
    depths = {leaf.shape[0] for path, leaf in named_leaves(params).items() if is_stacked(path)}
    if len(depths) != 1:
        raise InputError(
            "config.optimizer.layer_decay needs one stack of transformer blocks, and this model "
            "has none; set it to 1, and use config.optimizer.multipliers"
        )
    (depth,) = depths

    def factors(path: str) -> Any:
        layer: Any = depth + 1
        if is_stacked(path):
            layer = np.arange(1, depth + 1)
        elif EMBEDDINGS.fullmatch(path):
            layer = 0
        elif FINAL_NORM.fullmatch(path) and not pooled_norm:
            layer = depth
        scaled = np.maximum(float(decay) ** (depth + 1 - layer), least)
        return scaled if scaled.ndim else float(scaled)

    return map_paths(factors, params)


def scale_by_factors(factors: Any) -> optax.GradientTransformation:
    """Multiplies updates by factors: a number, or a vector along the first axis of a parameter.

    Masked updates stay masked.
    """

    def scale(factor: float | np.ndarray, update: Any) -> Any:
        if isinstance(factor, np.ndarray):
            vector = jnp.asarray(factor, jnp.float32)
            return jax.tree.map(lambda x: vector.reshape(-1, *(1,) * (x.ndim - 1)) * x, update)
        return update if factor == 1 else jax.tree.map(lambda x: factor * x, update)

    return optax.stateless(lambda updates, _: jax.tree.map(scale, factors, updates))

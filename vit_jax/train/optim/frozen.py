"""Which parameters are trained: `train`, `freeze` and `freeze_blocks` of `config.optimizer`."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vit_jax.errors import InputError, nearest
from vit_jax.train.optim.matrices import is_stacked, map_paths
from vit_jax.train.optim.options import OptimizerOptions
from vit_jax.trees import name_patterns, named_leaves, path_name
from vit_jax.weights.adapters.lora import kernel_of

# What starts afresh when a model is fine-tuned.
HEAD = "(head|head_dist|pre_logits)/.*"
# What comes before the first block, or is shared by all blocks.
BEFORE_BLOCKS = (
    "cls|dist|registers|(embedding|patch_norm|posemb|norm_pre|stem|rotary|position_bias)/.*"
)
LORA = "lora/.*"
# Constants that are stored as parameters: the colours of a palette.
NEVER = "embedding/palette"
# Of one parameter: whether it is trained; bool (layers, 1, ...) if that differs by layer.
Trained = bool | np.ndarray


def trained_tree(config: OptimizerOptions, params: Any) -> Any:
    """Which parameters are trained, as a tree of `Trained`.

    Args:
      config: `config.optimizer`.
      params: nested dict; shapes (jax.ShapeDtypeStruct) are enough.

    Raises:
      InputError: a pattern that is not a regular expression or matches nothing, more frozen
        blocks than the model has, or nothing left to train.
    """
    frozen = _matching(config.freeze, "optimizer.freeze", params)
    if patterns := _trained_patterns(config, params):
        chosen = _matching(patterns, "optimizer.train", params)
        frozen = jax.tree.map(lambda is_frozen, own: is_frozen or not own, frozen, chosen)
    constant = map_paths(lambda path: bool(re.fullmatch(NEVER, path)), params)
    trained = jax.tree.map(lambda *reasons: not any(reasons), frozen, constant)
    if config.freeze_blocks:
        trained = _without_blocks(trained, config.freeze_blocks, params)
    if not any(np.any(leaf) for leaf in jax.tree.leaves(trained)):
        names = ("freeze", "train", "freeze_blocks")
        used = [f"config.optimizer.{name}" for name in names if getattr(config, name)]
        raise InputError(
            f"{' with '.join(used) or 'config.lora'} matches every parameter; nothing is left to "
            "train"
        )
    return trained


def count_trained(config: OptimizerOptions, params: Any) -> int:
    """The number of trained parameters; arguments as in `trained_tree`."""
    counts = jax.tree.map(
        lambda mask, leaf: int(np.mean(mask) * leaf.size + 0.5),
        trained_tree(config, params),
        params,
    )
    return sum(jax.tree.leaves(counts))


def differentiated(config: OptimizerOptions, params: Any) -> frozenset[str]:
    """The paths of a model's parameters that get a gradient; arguments as in `trained_tree`.

    Blocks frozen by `freeze_blocks` get one, as do kernels that an adapter is merged into.
    """
    masks = named_leaves(trained_tree(config, params))
    paths = {path for path, mask in masks.items() if mask is not False}
    modules = {path.removeprefix("lora/")[: -len("/a/kernel")] for path in paths if "lora/" in path}
    return frozenset(paths | {kernel_of(module)[0] for module in modules})


def keep_trained(trained: Trained, update: jax.Array) -> jax.Array:
    """An update or gradient that is zero in frozen layers."""
    return jax.numpy.where(trained, update, 0) if isinstance(trained, np.ndarray) else update


def check_used(patterns: list[re.Pattern], used: set[int], where: str, params: Any) -> None:
    """Refuses patterns that match no parameter, or none that an earlier pattern leaves.

    Args:
      patterns: patterns of an option.
      used: indices of those that match.
      where: name of the option below "config.".
      params: nested dict.
    """
    paths = jax.tree.leaves(map_paths(str, params))
    for pattern in (pattern for i, pattern in enumerate(patterns) if i not in used):
        name = f"config.{where}: {pattern.pattern!r}"
        if any(pattern.fullmatch(path) for path in paths):
            raise InputError(f"{name} matches nothing that an earlier pattern leaves; put it first")
        raise InputError(
            f"{name} matches no parameter{nearest(pattern.pattern, paths)}; a pattern is a "
            "regular expression for the whole path, such as 'head/.*'"
        )


def _trained_patterns(config: OptimizerOptions, params: Any) -> tuple[str, ...]:
    """The patterns of trained parameters; () if that is all of them.

    Raises:
      InputError: a model with an adapter has no head.
    """
    paths = named_leaves(params)
    if config.train or not any(re.fullmatch(LORA, path) for path in paths):
        return tuple(config.train)
    if not any(re.fullmatch(HEAD, path) for path in paths):
        raise InputError(
            "config.lora trains the adapter and the head, but the model of this task has no head; "
            "name what is to be trained in config.optimizer.train, such as ('lora/.*', 'masked/.*')"
        )
    return LORA, HEAD


def _matching(patterns: Sequence[str], where: str, params: Any) -> Any:
    """Whether each parameter's path matches one of the patterns."""
    compiled = name_patterns(patterns, f"config.{where}")
    matches = map_paths(
        lambda path: frozenset(i for i, p in enumerate(compiled) if p.fullmatch(path)), params
    )
    check_used(compiled, set().union(*jax.tree.leaves(matches)), where, params)
    return jax.tree.map(bool, matches)


def _without_blocks(trained: Any, count: int, params: Any) -> Any:
    """`trained` without what comes before the blocks and without the first `count` of them."""
    where = f"config.optimizer.freeze_blocks is {count}, but the model has"
    leaves = named_leaves(params)
    depths = {leaf.shape[0] for path, leaf in leaves.items() if is_stacked(path)}
    if not depths:
        raise InputError(f"{where} no Transformer blocks; config.optimizer.freeze takes patterns")
    (depth,) = depths
    if count > depth:
        raise InputError(f"{where} {depth} blocks")

    def choose(path: str, before: bool, leaf: Any) -> Trained:
        if not before or re.fullmatch(BEFORE_BLOCKS, path):
            return False
        if not is_stacked(path):
            return True
        if count == depth:
            return False
        layers = np.arange(depth) >= count
        return layers.reshape(depth, *[1] * (len(leaf.shape) - 1))

    return jax.tree_util.tree_map_with_path(
        lambda path, before, leaf: choose(path_name(path), before, leaf), trained, params
    )

"""Trees of arrays by path: "blocks/mlp/fc1/kernel"."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from vit_jax.errors import InputError


def path_name(path: tuple[Any, ...]) -> str:
    """A JAX key path as text, its parts joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    """Path -> leaf of a tree, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in leaves}


def name_patterns(patterns: Sequence[str], name: str) -> list[re.Pattern[str]]:
    """Compiles regular expressions for whole parameter paths, such as "head/.*".

    Args:
      patterns: patterns of an option, to be used with `fullmatch`.
      name: name of the option in messages.

    Raises:
      InputError: one is not a regular expression.
    """
    try:
        return [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise InputError(f"{name} {tuple(patterns)!r}: {error}") from error

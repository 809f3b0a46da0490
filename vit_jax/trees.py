"""Trees of arrays by path: "blocks/mlp/fc1/kernel"."""

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """A JAX key path as text, its parts joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any, is_leaf: Any = None) -> dict[str, Any]:
    """Path -> leaf of a tree, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {path_name(path): leaf for path, leaf in leaves}

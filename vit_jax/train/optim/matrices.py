"""The axes of parameters: which stack layers, which are a kernel's inputs and its outputs."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vit_jax.parallel.rules import STACKED
from vit_jax.trees import path_name

# Kernels with one input axis; the next axis counts query, key and value, or gate and value.
_PACKED = r"(^|/)(qkv|query_value|key_value|gated)/kernel$"
_HEADS_OUT = r"(^|/)query/kernel$"  # one input axis, then heads and their width


class MatrixAxes(NamedTuple):
    """The axes of a kernel as a stack of matrices, counted from 0.

    Attributes:
      stack: axes that count matrices: layers; query, key and value.
      inputs: axes that the product sums over.
      outputs: axes of the result.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def is_stacked(path: str) -> bool:
    """Whether the first axis of a parameter counts the layers of stacked blocks."""
    return re.search(STACKED, path) is not None


def matrix_axes(path: str, ndim: int) -> MatrixAxes:
    """The axes of a kernel.

    A kernel without a rule has one output axis, the last, as dense layers, convolutions and the
    output of attention have.

    Args:
      path: path of the kernel, such as "blocks/attention/qkv/kernel".
      ndim: number of its axes, at least two without the axis of layers.
    """
    first = 1 if is_stacked(path) else 0
    layers = tuple(range(first))
    if re.search(_PACKED, path) and ndim > first + 2:
        return MatrixAxes((*layers, first + 1), (first,), tuple(range(first + 2, ndim)))
    if re.search(_HEADS_OUT, path):
        return MatrixAxes(layers, (first,), tuple(range(first + 1, ndim)))
    return MatrixAxes(layers, tuple(range(first, ndim - 1)), (ndim - 1,))


def unit_axes(path: str, ndim: int) -> tuple[int, ...]:
    """The axes over which the norm of one unit of a layer is taken.

    A unit is an output of a kernel; of other parameters, a layer's whole vector or table.
    """
    first = 1 if is_stacked(path) else 0
    if path.rsplit("/", 1)[-1] == "kernel" and ndim - first > 1:
        return matrix_axes(path, ndim).inputs
    return tuple(range(first, ndim))


def map_paths(function: Callable[[str], Any], params: Any) -> Any:
    """A tree like `params` of `function("blocks/norm1/scale")` at every leaf."""
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_name(path)), params)


def map_layers(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Maps `function(path, array, ...)` over trees; see `jax.tree.map`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *arrays: function(path_name(path), *arrays), tree, *rest
    )


def layer_axes(path: str, ndim: int) -> tuple[int, ...]:
    """All axes of a parameter but the one that counts layers."""
    return tuple(range(1 if is_stacked(path) else 0, ndim))

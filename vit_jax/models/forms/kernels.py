"""Kernels of stacked blocks, rounded to the products' dtype before the loop over blocks."""

from typing import TypeVar

import jax
from flax import nnx

from vit_jax.models.forms.platform import on_tpu
from vit_jax.models.layers import Dense

Params = TypeVar("Params")


def rounded_kernels(blocks: nnx.Module, params: Params) -> Params:
    """The parameters of stacked blocks, with kernels in the dtype of their products.

    A product rounds its kernel in any case. Done before the loop, the loop reads and keeps half
    of the bytes, and stacks the kernels' gradients in that dtype, which they have in any case.

    Args:
      blocks: stacked blocks.
      params: state of `nnx.split(blocks)`.
    """
    if not on_tpu():
        return params
    dtypes = {
        (*path, "kernel"): module.dtype
        for path, module in nnx.iter_graph(blocks)
        if isinstance(module, Dense)
    }

    def rounded(path, leaf):
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        return leaf.astype(dtypes.get(names, leaf.dtype))

    return jax.tree_util.tree_map_with_path(rounded, params)

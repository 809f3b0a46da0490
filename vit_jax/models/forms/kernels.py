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
    Kernels that fsdp shards are rounded in the loop; see `of_one_block`.

    Args:
      blocks: stacked blocks.
      params: state of `nnx.split(blocks)`.
    """
    if not on_tpu() or _sharded():
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


def of_one_block(params: Params) -> Params:
    """The parameters of one block in the loop, where XLA is to slice them from the stack.

    It would round a sharded stack before the loop, and move the small result into a TPU's own
    memory and out again in each iteration.
    """
    return jax.lax.optimization_barrier(params) if on_tpu() and _sharded() else params


def _sharded() -> bool:
    return jax.sharding.get_abstract_mesh().shape.get("fsdp", 1) > 1

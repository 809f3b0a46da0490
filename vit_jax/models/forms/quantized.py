"""Inference in int8: the kernels of a Transformer's blocks, and what they are multiplied with."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vit_jax.errors import InputError
from vit_jax.models.layers import Dense, unstack
from vit_jax.models.vit import ViT

_LARGEST = 127
_POSITIONS = ("posemb", "rotary", "position_bias")  # parts of a block that stay as they are


class Int8Dense(nnx.Module):
    """A dense layer for inference: y = (x W) + b with both factors of the product in int8.

    Each output of the kernel has a scale of its own, fixed when the layer is made; each row of x
    has one that is found when it comes (LLM.int8(), 2208.07339, section 2.1, without outliers).
    Sums are in int32, which is exact.

    Args:
      dense: layer whose parameters are taken.
      stacked: whether they have a leading axis of layers.
    """

    def __init__(self, dense: Dense, stacked: bool):
        kernel = dense.kernel[...]
        inputs = tuple(range(stacked, stacked + dense.num_inputs))
        scale = _scale(kernel, inputs)
        self.kernel = nnx.Param(_rounded(kernel, scale))
        self.scale = nnx.Param(scale.squeeze(inputs))
        if dense.has_bias:
            self.bias = nnx.Param(dense.bias[...])
        self.has_bias = dense.has_bias
        self.num_inputs = dense.num_inputs
        self.dtype = dense.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *inputs) -> (..., *outputs)."""
        lead = x.shape[: -self.num_inputs]
        kernel = self.kernel[...]
        kernel = kernel.reshape(-1, *kernel.shape[self.num_inputs :])
        x = x.astype(jnp.float32).reshape(-1, len(kernel))
        scale = _scale(x, (1,))
        y = lax.dot_general(
            _rounded(x, scale), kernel, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
        )
        y = y.astype(jnp.float32) * scale.reshape(-1, *[1] * (y.ndim - 1)) * self.scale[...]
        if self.has_bias:
            y = y + self.bias[...]
        return y.reshape(*lead, *y.shape[1:]).astype(self.dtype)

    def parts(self, x: jax.Array) -> list[jax.Array]:
        """y in slices along its first output axis."""
        return unstack(self(x), x.ndim - self.num_inputs)


def _scale(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The step of int8 numbers for the largest value along some axes, which are kept."""
    largest = jnp.abs(x).max(axes, keepdims=True)
    return jnp.where(largest > 0, largest / _LARGEST, 1.0)


def _rounded(x: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.round(x / scale).astype(jnp.int8)


def int8(model: nnx.Module) -> ViT:
    """A copy of a model for inference, with the dense layers of its blocks in int8.

    Embeddings, norms, attention's products, pooling and head stay as they are.

    Raises:
      InputError: the model has no Transformer blocks.
    """
    if not isinstance(model, ViT):
        raise InputError("int8 is for Transformers: a BiT has no dense layers but its head")
    model = nnx.clone(model)
    _replace(model.blocks)
    return model


def _replace(module: nnx.Module) -> None:
    for name, child in list(vars(module).items()):
        if isinstance(child, Dense):
            setattr(module, name, Int8Dense(child, stacked=True))
        elif isinstance(child, nnx.Module) and name not in _POSITIONS:
            _replace(child)

"""The two-layer MLP of a Transformer block (section 3.1)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models import layers
from vit_jax.models.layers import Dense

MLPS = ("gelu", "swiglu")


class Mlp(nnx.Module):
    """Dense, GELU, dropout, dense; the caller applies dropout to the result.

    Biases start from N(0, 1e-6).

    Kind "swiglu" (2002.05202, DINOv2's giant model) gates instead: silu(x A) * (x B),
    with A and B fused in `gated` as kernel (D, 2, M), which takes the place of `fc1`.
    """

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        kind: str = "gelu",
        gelu: str = "tanh",
        dropout: float = 0.0,
    ):
        dense = functools.partial(
            Dense, rngs=rngs, dtype=dtype, bias_init=nnx.initializers.normal(1e-6)
        )
        if kind == "swiglu":
            self.gated = dense((width,), (2, mlp_dim), groups=1)
        else:
            self.fc1 = dense((width,), (mlp_dim,))
        self.fc2 = dense((mlp_dim,), (width,))
        self.kind = kind
        self.approximate = gelu == "tanh"
        self.dropout = dropout

    def __call__(self, x: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """(..., D) -> (..., D)."""
        with jax.named_scope("mlp"):
            if self.kind == "swiglu":
                x = swiglu(self.gated(x))
            else:
                x = gelu(self.fc1(x), self.approximate)
            return self.fc2(layers.dropout(x, self.dropout, keys))


# For the backward pass, only the inputs of these functions are kept; the rest is recomputed.


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """GELU (1606.08415), by its tanh approximation or exact."""
    return jax.nn.gelu(x, approximate=approximate)


@functools.partial(jax.checkpoint, prevent_cse=False)
def swiglu(x: jax.Array) -> jax.Array:
    """(..., 2, M) -> (..., M): the first half gates the second."""
    return jax.nn.silu(x[..., 0, :]) * x[..., 1, :]

"""The two-layer MLP of a Transformer block (section 3.1)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vit_jax.models import layers
from vit_jax.models.forms.remat import saved
from vit_jax.models.layers import NORMS, Dense

MLPS = ("gelu", "swiglu")
GELUS = ("tanh", "erf", "quick")


class Mlp(nnx.Module):
    """Dense, GELU, dropout, dense; the caller applies dropout to the result.

    Biases start from N(0, 1e-6).

    Kind "swiglu" (2002.05202, DINOv2's giant model) gates instead: silu(x A) * (x B),
    with A and B fused in `gated` as kernel (D, 2, M), which takes the place of `fc1`.

    Args:
      width: width of a token (D).
      mlp_dim: hidden width (M).
      rngs: random streams of the initialisation.
      dtype: dtype of the products.
      kind: one of MLPS.
      gelu: one of GELUS.
      dropout: rate of dropout between the dense layers.
      bias: whether the dense layers have biases.
      inner_norm: name of a norm of the hidden vector, before the second dense layer (sub-LN,
        2210.06423); None: no norm.
      norm_eps: epsilon of that norm.
    """

    def __init__(
        self,
        width: int,
        mlp_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        kind: str = "gelu",
        gelu: str = "tanh",
        dropout: float = 0.0,
        bias: bool = True,
        inner_norm: str | None = None,
        norm_eps: float = 1e-6,
    ):
        dense = functools.partial(
            Dense, rngs=rngs, dtype=dtype, bias=bias, bias_init=nnx.initializers.normal(1e-6)
        )
        if kind == "swiglu":
            self.gated = dense((width,), (2, mlp_dim), groups=1)
        else:
            self.fc1 = dense((width,), (mlp_dim,))
        if inner_norm:
            self.norm = NORMS[inner_norm](mlp_dim, eps=norm_eps, dtype=dtype)
        self.fc2 = dense((mlp_dim,), (width,))
        self.kind = kind
        self.gelu = gelu
        self.has_norm = bool(inner_norm)
        self.dropout = dropout

    def __call__(self, x: jax.Array, *, keys: jax.Array | None = None) -> jax.Array:
        """(..., D) -> (..., D)."""
        with jax.named_scope("mlp"):
            if self.kind == "swiglu":
                x = swiglu(saved(self.gated(x), "hidden"))
            else:
                x = gelu(saved(self.fc1(x), "hidden"), self.gelu)
            if self.has_norm:
                x = self.norm(x)
            return self.fc2(layers.dropout(x, self.dropout, keys))


# For the backward pass, only the inputs of these functions are kept; the rest is recomputed.


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
def gelu(x: jax.Array, formula: str) -> jax.Array:
    """GELU (1606.08415): approximate by tanh, exact by erf, or "quick", x sigmoid(1.702 x)."""
    if formula == "quick":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=formula == "tanh")


@functools.partial(jax.checkpoint, prevent_cse=False)
def swiglu(x: jax.Array) -> jax.Array:
    """(..., 2, M) -> (..., M): the first half gates the second."""
    return jax.nn.silu(x[..., 0, :]) * x[..., 1, :]

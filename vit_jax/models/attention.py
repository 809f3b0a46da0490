"""Multi-head attention (section 3.1, appendix A)."""

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.models.layers import Dense, LayerNorm, dropout


def attention_weights(query: jax.Array, key: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) in float32; (B, H, Q, d), (B, H, K, d) -> (B, H, Q, K)."""
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores, axis=-1)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    implementation: str = "auto",
    rate: float = 0.0,
    keys: jax.Array | None = None,
    return_weights: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """Scaled dot-product attention.

    Args:
      query, key, value: (B, N, H, d).
      implementation: xla, cudnn (bfloat16, no weights returned), or auto: xla.
      rate: dropout of attention weights.
      keys: (B,) dropout keys, None in evaluation.
      return_weights: also return the weights, (B, H, N, N) in float32.

    Returns:
      (B, N, H, d) and the weights or None.
    """
    if implementation == "cudnn" and not return_weights and (rate == 0.0 or keys is None):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn"), None
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    weights = attention_weights(query, key)
    dropped = dropout(weights, rate, keys).astype(value.dtype)
    y = jnp.einsum("bhqk,bhkd->bhqd", dropped, value).transpose(0, 2, 1, 3)
    return y, weights if return_weights else None


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection of queries, keys and values."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        implementation: str = "auto",
    ):
        head_width = width // num_heads
        self.qkv = Dense((width,), (3, num_heads, head_width), groups=1, rngs=rngs, dtype=dtype)
        self.out = Dense((num_heads, head_width), (width,), rngs=rngs, dtype=dtype)
        if qk_norm:
            self.query_norm = LayerNorm(head_width, eps=norm_eps, dtype=dtype)
            self.key_norm = LayerNorm(head_width, eps=norm_eps, dtype=dtype)
        self.qk_norm = qk_norm
        self.dropout = dropout
        self.implementation = implementation

    def __call__(
        self, x: jax.Array, *, keys: jax.Array | None = None, return_weights: bool = False
    ) -> tuple[jax.Array, jax.Array | None]:
        """(B, N, D) -> (B, N, D) and, if asked for, the weights (B, H, N, N)."""
        query, key, value = jnp.moveaxis(self.qkv(x), 2, 0)
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        y, weights = attend(
            query,
            key,
            value,
            implementation=self.implementation,
            rate=self.dropout,
            keys=keys,
            return_weights=return_weights,
        )
        return self.out(y), weights

"""Attention block by block, for long sequences: no array has queries times keys elements.

The softmax is accumulated over blocks of keys (Rabe and Staats, 2112.05682; FlashAttention,
2205.14135). The forward pass keeps the logarithm of each query's sum, from which the backward
pass computes the weights of a block again.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vit_jax.models.forms.linear import Linear, Transpose, linear

BLOCK = 256  # keys of a block, at most


def blockwise_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    *,
    causal: bool = False,
    start: jax.Array | None = None,
    length: int | None = None,
    block: int = BLOCK,
) -> jax.Array:
    """softmax(q k^T / sqrt(d) + bias) v; (B, H, Q, d), (B, H, K, d), (B, H, K, d) -> (B, H, Q, d).

    Sums are in float32, products in the dtype of the inputs. The memory beyond inputs and
    result is that of Q x `block` logits for each head.

    Args:
      query, key, value: queries, keys and values of the heads.
      bias: added to the logits, broadcastable to (B, H, Q, K); it has a gradient.
      causal: whether a query only sees the keys up to its own place.
      start: place of the first query among the keys, int32 (); None: 0.
      length: number of keys that are seen, from the first on; None: all.
      block: largest number of keys of a block.
    """
    keys = key.shape[2]
    length = keys if length is None else min(length, keys)
    size = -(-keys // -(-keys // block))  # of equal blocks
    start = jnp.zeros((), jnp.int32) if start is None else start
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*bias.shape[:3], keys)).astype(jnp.float32)
    return _attention(query, key, value, bias, start, causal, length, size)


def _cut(x: jax.Array, size: int, axis: int) -> jax.Array:
    """An axis, padded with zeros, in blocks that come first: (blocks, ..., size, ...)."""
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, -x.shape[axis] % size)
    x = jnp.pad(x, padding)
    x = x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _join(blocks: jax.Array, axis: int, length: int) -> jax.Array:
    """The inverse of `_cut`."""
    x = jnp.moveaxis(blocks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, length, axis=axis)


def _logits(query, key, bias, number, start, causal, length, size):
    """Logits (B, H, Q, size) of the block with this number, -inf where a key is not seen."""
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    places = number * size + lax.broadcasted_iota(jnp.int32, logits.shape[2:], 1)
    seen = places < length
    if causal:
        seen &= places <= start + lax.broadcasted_iota(jnp.int32, logits.shape[2:], 0)
    return jnp.where(seen, logits, -jnp.inf)


def _blocks(key, value, bias, size):
    """Keys, values, biases and numbers of all blocks."""
    blocks = _cut(key, size, 2), _cut(value, size, 2)
    cut_bias = None if bias is None else _cut(bias, size, 3)
    return *blocks, cut_bias, jnp.arange(len(blocks[0]))


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6, 7))
def _attention(query, key, value, bias, start, causal, length, size):
    return _forward(query, key, value, bias, start, causal, length, size)[0]


def _forward(query, key, value, bias, start, causal, length, size):
    scaled = query * query.shape[-1] ** -0.5

    def add_block(carry, block):
        total, largest, count = carry
        own_key, own_value, own_bias, number = block
        logits = _logits(scaled, own_key, own_bias, number, start, causal, length, size)
        now = jnp.maximum(largest, logits.max(-1, keepdims=True))
        shift = jnp.where(now == -jnp.inf, 0.0, now)  # of a query that has seen no key yet
        weights, before = jnp.exp(logits - shift), jnp.exp(largest - shift)
        more = jnp.einsum(
            "bhqk,bhkd->bhqd",
            weights.astype(value.dtype),
            own_value,
            preferred_element_type=jnp.float32,
        )
        return (total * before + more, now, count * before + weights.sum(-1, keepdims=True)), None

    rows = query.shape[:3]
    none = (
        jnp.zeros((*rows, value.shape[-1]), jnp.float32),
        jnp.full((*rows, 1), -jnp.inf),
        jnp.zeros((*rows, 1)),
    )
    (total, largest, count), _ = lax.scan(add_block, none, _blocks(key, value, bias, size))
    y = (total / count).astype(value.dtype)
    return y, (query, key, value, bias, start, y, largest + jnp.log(count))


@_attention.defjvp
def _derivative(causal, length, size, primals, tangents):
    y, kept = _forward(*primals, causal, length, size)
    query, key, value, bias, start, y, sums = kept
    # As numbers with a derivative, though it is zero: `linear` takes no others.
    arrays = [query, key, value, start.astype(jnp.float32), y, sums]
    biased = bias is not None
    arrays, inputs = (arrays + [bias], tangents[:4]) if biased else (arrays, tangents[:3])
    (tangent,) = linear(*_rules(causal, length, size, biased), arrays, list(inputs))
    return y, tangent


@functools.cache
def _rules(causal: bool, length: int, size: int, biased: bool) -> tuple[Linear, Transpose]:
    """The derivative of attention and its transpose, for `linear`."""

    def residuals(arrays):
        query, key, value, start, y, sums, *bias = arrays
        return query, key, value, bias[0] if biased else None, start.astype(jnp.int32), y, sums

    def forward(arrays, tangents):
        return [_tangent(causal, length, size, residuals(arrays), *tangents)]

    def transpose(arrays, grads):
        return _backward(causal, length, size, residuals(arrays), *grads)

    return forward, transpose


def _tangent(causal, length, size, saved, query_tangent, key_tangent, value_tangent, more=None):
    """The derivative of the result along tangents; `more` is that of the bias."""
    query, key, value, bias, start, y, sums = saved
    scale = query.shape[-1] ** -0.5
    scaled, scaled_tangent = query * scale, query_tangent * scale

    def add_block(carry, block):
        total, shift = carry
        (own_key, own_value, own_bias, number), (key_part, value_part, bias_part, _) = block
        logits = _logits(scaled, own_key, own_bias, number, start, causal, length, size)
        weights = jnp.exp(logits - sums)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        scores = product("bhqd,bhkd->bhqk", scaled_tangent, own_key)
        scores = scores + product("bhqd,bhkd->bhqk", scaled, key_part)
        scores = weights * (scores if bias_part is None else scores + bias_part)
        of_values = product("bhqk,bhkd->bhqd", scores.astype(value.dtype), own_value)
        of_values += product("bhqk,bhkd->bhqd", weights.astype(value.dtype), value_part)
        return (total + of_values, shift + scores.sum(-1, keepdims=True)), None

    rows = query.shape[:3]
    none = jnp.zeros((*rows, value.shape[-1]), jnp.float32), jnp.zeros((*rows, 1))
    blocks = _blocks(key, value, bias, size), _blocks(key_tangent, value_tangent, more, size)
    (total, shift), _ = lax.scan(add_block, none, blocks)
    return (total - shift * y.astype(jnp.float32)).astype(value.dtype)


def _backward(causal, length, size, saved, grad):
    """The gradients of queries, keys, values and, if there is one, the bias."""
    query, key, value, bias, start, y, sums = saved
    scale = query.shape[-1] ** -0.5
    scaled = query * scale
    # For each query, the sum over keys of weight times its gradient, computed as a sum over d.
    total = (grad.astype(jnp.float32) * y.astype(jnp.float32)).sum(-1, keepdims=True)

    def block_gradients(of_query, block):
        own_key, own_value, own_bias, number = block
        logits = _logits(scaled, own_key, own_bias, number, start, causal, length, size)
        weights = jnp.exp(logits - sums)
        scores = jnp.einsum("bhqd,bhkd->bhqk", grad, own_value, preferred_element_type=jnp.float32)
        scores = weights * (scores - total)
        of_bias = None
        if own_bias is not None:
            axes = [i for i in range(3) if own_bias.shape[i] == 1 and scores.shape[i] > 1]
            of_bias = scores.sum(axes, keepdims=True) if axes else scores
        scores, weights = scores.astype(key.dtype), weights.astype(value.dtype)
        of_query = of_query + jnp.einsum(
            "bhqk,bhkd->bhqd", scores, own_key, preferred_element_type=jnp.float32
        )
        of_key = jnp.einsum("bhqk,bhqd->bhkd", scores, scaled)
        of_value = jnp.einsum("bhqk,bhqd->bhkd", weights, grad)
        return of_query, (of_key, of_value, of_bias)

    of_query, (of_key, of_value, of_bias) = lax.scan(
        block_gradients, jnp.zeros(query.shape, jnp.float32), _blocks(key, value, bias, size)
    )
    gradients = [
        (of_query * scale).astype(query.dtype),
        _join(of_key, 2, key.shape[2]),
        _join(of_value, 2, value.shape[2]),
    ]
    return gradients if bias is None else [*gradients, _join(of_bias, 3, bias.shape[3])]

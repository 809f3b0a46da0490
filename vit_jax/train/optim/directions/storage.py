"""Moments stored in fewer bits: 8-bit codes of blocks, and bfloat16 second moments.

8-bit moments (2110.02861): blocks of up to 256 elements along the last axis have one float32
scale, their largest absolute value; elements are rounded to the nearest of 256 codes of the
dynamic tree, whose steps grow with the value. The second moment is stored as its square root, and
what is not 0 never becomes 0, since the update divides by it. Parameters below 4096 elements keep
float32, as in the authors' code.

A bfloat16 second moment is rounded at random, up or down in proportion: with b2 = 0.999 a step
changes it by less than half of bfloat16's resolution, and nearest rounding would lose the change.
The random bits depend on the number of the update alone, so that a resumed run repeats them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

BLOCK = 256
LEAST_SIZE = 4096  # elements of a parameter, below which moments keep float32
_DECADES = 7
_FIRST, _SECOND = ("mu", "trace"), ("nu",)  # fields of Optax's states


class Blocks(NamedTuple):
    """Arrays in blocks: trees like the parameters, whose paths end in the parameter's.

    Attributes:
      codes: numbers of codes, uint8 with the shape of the parameter; or the float32 array of a
        small parameter.
      scales: float32 (..., blocks of the last axis); masked for small parameters.
    """

    codes: Any
    scales: Any


def dynamic_codes(signed: bool) -> np.ndarray:
    """The 256 values of the dynamic tree in [-1, 1], or without sign in [0, 1], ascending.

    Decade i of seven, from 1e-7..1e-6 to 0.1..1, has 2 ** i values (2 ** (i + 1) without sign),
    the middles of equal parts; 0 and 1 are codes too (2110.02861, section 1.3).
    """
    values = [0.0, 1.0]
    for decade in range(_DECADES):
        edges = np.linspace(0.1, 1, 2 ** (decade + (0 if signed else 1)) + 1)
        middles = 10.0 ** (decade - _DECADES + 1) * (edges[:-1] + edges[1:]) / 2
        values += [*middles, *(-middles if signed else ())]
    return np.sort(np.array(values, np.float32))


def block_length(size: int) -> int:
    """The length of blocks along an axis: up to 256, or the whole axis if it has no such part."""
    if size <= BLOCK:
        return size
    parts = [length for length in range(BLOCK // 8, BLOCK + 1) if size % length == 0]
    return max(parts, default=size)


def encode(x: jax.Array, *, signed: bool) -> tuple[jax.Array, jax.Array]:
    """Codes uint8 like `x`, and scales float32 (..., blocks of the last axis)."""
    table = dynamic_codes(signed)
    length = block_length(x.shape[-1])
    blocks = x.reshape(*x.shape[:-1], -1, length)
    scales = jnp.abs(blocks).max(axis=-1)
    shares = blocks / jnp.where(scales > 0, scales, 1)[..., None]
    middles = jnp.asarray((table[:-1] + table[1:]) / 2)
    codes = jnp.searchsorted(middles, shares, method="scan_unrolled")
    if not signed:
        codes = jnp.where(shares > 0, jnp.maximum(codes, 1), 0)
    return codes.astype(jnp.uint8).reshape(x.shape), scales


def decode(codes: jax.Array, scales: jax.Array, *, signed: bool) -> jax.Array:
    """The float32 array of codes and scales."""
    values = jnp.asarray(dynamic_codes(signed))[codes.astype(jnp.int32)]
    blocks = values.reshape(*scales.shape, -1) * scales[..., None]
    return blocks.reshape(codes.shape)


def round_at_random(x: jax.Array, key: jax.Array) -> jax.Array:
    """float32 as bfloat16, one of the two neighbours in proportion to their nearness."""
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def with_storage(
    transformation: optax.GradientTransformation, first: str, second: str = "float32"
) -> optax.GradientTransformation:
    """A transformation of Optax with its moments stored in other types between steps.

    Args:
      transformation: one with a state of fields `mu` or `trace`, and `nu` and `count`.
      first: dtype of the first moment; all but 8bit are the transformation's own.
      second: dtype of the second moment.
    """
    if first != "8bit" and second == "float32":
        return transformation

    def packed(state: Any) -> Any:
        changes = {}
        for name in state._fields:
            if name in _FIRST and first == "8bit":
                changes[name] = _to_blocks(getattr(state, name), signed=True)
            if name in _SECOND and second == "8bit":
                changes[name] = _to_blocks(getattr(state, name), signed=False)
            if name in _SECOND and second == "bfloat16":
                changes[name] = _rounded(getattr(state, name), state.count)
        return state._replace(**changes)

    def unpacked(state: Any) -> Any:
        changes = {}
        for name in state._fields:
            stored = getattr(state, name)
            if isinstance(stored, Blocks):
                changes[name] = _from_blocks(stored, signed=name in _FIRST)
            elif name in _SECOND:
                changes[name] = jax.tree.map(lambda x: x.astype(jnp.float32), stored)
        return state._replace(**changes)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, new = transformation.update(gradients, unpacked(state), params)
        return updates, packed(new)

    return optax.GradientTransformation(lambda params: packed(transformation.init(params)), update)


def _to_blocks(tree: Any, *, signed: bool) -> Blocks:
    def pair(x: jax.Array) -> tuple[Any, Any]:
        if x.size < LEAST_SIZE:
            return x, optax.MaskedNode()
        return encode(x if signed else jnp.sqrt(x), signed=signed)

    leaves, structure = jax.tree.flatten(tree)
    pairs = [pair(leaf) for leaf in leaves]
    codes, scales = ([one[i] for one in pairs] for i in range(2))
    return Blocks(jax.tree.unflatten(structure, codes), jax.tree.unflatten(structure, scales))


def _from_blocks(blocks: Blocks, *, signed: bool) -> Any:
    def whole(codes: jax.Array, scales: Any) -> jax.Array:
        if isinstance(scales, optax.MaskedNode):
            return codes
        x = decode(codes, scales, signed=signed)
        return x if signed else jnp.square(x)

    return jax.tree.map(whole, blocks.codes, blocks.scales)


def _rounded(tree: Any, count: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), count), max(len(leaves), 1))
    rounded = [round_at_random(leaf, key) for leaf, key in zip(leaves, keys, strict=False)]
    return jax.tree.unflatten(structure, rounded)

"""Fingerprints against the formula in numpy, under layouts, and of arrays that differ a little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.checkpoint.fingerprint import fingerprints

LARGE = (8, 48, 64)  # elements enough to be computed on devices
SHAPES = {"large": LARGE, "odd": (3, 5, 7), "vector": (130,), "scalar": ()}
DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "bool"]


def scramble(x):
    """MurmurHash3's finaliser, in Python's integers."""
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def by_formula(array):
    words = np.ascontiguousarray(array).reshape(-1).view(f"<u{array.dtype.itemsize}")
    return sum(scramble(int(word) ^ scramble(i)) for i, word in enumerate(words)) % 2**32


def random_array(shape, dtype):
    bits = np.random.default_rng(0).integers(0, 256, (*shape, 4), np.uint8)
    if dtype == "bool":
        return bits[..., 0] > 127
    return bits[..., : jnp.dtype(dtype).itemsize].copy().view(dtype).reshape(shape)


def flipped(array, bit):
    data = bytearray(array.tobytes())
    data[bit // 8] ^= 1 << bit % 8
    return np.frombuffer(bytes(data), array.dtype).reshape(array.shape)


def fingerprint(array):
    return fingerprints({"x": jnp.asarray(array)})["x"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_formula(dtype):
    arrays = {name: random_array(shape, dtype) for name, shape in SHAPES.items()}
    found = fingerprints(jax.tree.map(jnp.asarray, arrays))
    assert found == {name: by_formula(array) for name, array in arrays.items()}


def test_paths_name_arrays():
    tree = {"head": {"kernel": jnp.zeros(3)}, "moments": (jnp.ones(2), jnp.ones(2))}
    assert list(fingerprints(tree)) == ["head/kernel", "moments/0", "moments/1"]


def test_layouts_do_not_matter():
    array = random_array(LARGE, "float32")
    expected = by_formula(array)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    specs = [(), ("a",), (None, "b"), ("b", None, "a"), (("a", "b"),), (None, None, ("b", "a"))]
    for spec in specs:
        laid_out = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert fingerprints({"x": laid_out}) == {"x": expected}, spec
    assert fingerprints({"x": jax.device_put(array, jax.devices()[3])}) == {"x": expected}


@pytest.mark.parametrize("shape", [LARGE, (3, 5, 7)], ids=["on devices", "on host"])
def test_any_flipped_bit_shows(shape):
    array = random_array(shape, "float32")
    before = fingerprint(array)
    bits = np.random.default_rng().integers(0, array.size * 32, 64)
    assert all(fingerprint(flipped(array, int(bit))) != before for bit in bits)


def test_other_damage_shows():
    """Two of the same bit, swapped words, a block of zeros, a block moved."""
    array = np.ones(LARGE, np.float32)
    array += np.arange(array.size, dtype=np.float32).reshape(LARGE)
    before = fingerprint(array)
    rng = np.random.default_rng()
    for _ in range(32):
        first, second = (int(word) * 32 for word in rng.choice(array.size, 2, replace=False))
        high = int(rng.integers(20, 32))  # a weighted sum of the words would lose many of these
        assert fingerprint(flipped(flipped(array, first + high), second + high)) != before
    swapped = array.copy()
    swapped[0, 0, 0], swapped[4, 0, 0] = array[4, 0, 0], array[0, 0, 0]
    zeroed = array.copy()
    zeroed[2] = 0
    moved = array[[0, 1, 3, 2, 4, 5, 6, 7]]
    for damaged in (swapped, zeroed, moved):
        assert fingerprint(damaged) != before

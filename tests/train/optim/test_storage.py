"""Moments in 8 bits and bfloat16 beside their definition in NumPy, and beside whole moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.train.optim.stepping import create, nested, run
from vit_jax import InputError
from vit_jax.parallel.rules import state_shardings
from vit_jax.train.optim.directions import storage

SHAPES = {"blocks/fc/kernel": (2, 64, 512), "head/kernel": (64, 80), "head/bias": (80,)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {
        path: (rng.normal(size=shape) * rng.lognormal(0, 3, shape)).astype(np.float32)
        for path, shape in SHAPES.items()
    }


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_those_of_the_dynamic_tree(signed):
    """Section 1.3 of 2110.02861: zeros after the sign choose the decade, a linear part the rest."""
    codes = storage.dynamic_codes(signed)
    assert len(np.unique(codes)) == 256 and codes[-1] == 1
    positive = codes[(codes > 0) & (codes < 1)]
    for decade in range(7):
        low, high = 10.0 ** (decade - 7), 10.0 ** (decade - 6)
        inside = positive[(positive > low) & (positive < high)]
        assert len(inside) == 2 ** (decade + (not signed))
        if len(inside) > 1:
            np.testing.assert_allclose(np.diff(inside), 0.9 * high / len(inside), rtol=1e-4)
    if signed:
        np.testing.assert_array_equal(np.sort(-codes[codes < 0]), positive)


@pytest.mark.parametrize("signed", [True, False])
def test_every_element_becomes_the_nearest_code_of_its_block(signed):
    x = draw(0)["blocks/fc/kernel"]
    x = x if signed else np.abs(x)
    x[0, 0] = 0
    codes, scales = jax.jit(storage.encode, static_argnames="signed")(x, signed=signed)
    assert codes.dtype == jnp.uint8 and codes.shape == x.shape and scales.shape == (2, 64, 2)
    found = np.asarray(storage.decode(codes, scales, signed=signed))
    blocks = x.reshape(2, 64, 2, 256)
    largest = np.abs(blocks).max(-1, keepdims=True)
    table = storage.dynamic_codes(signed)
    distance = np.abs(blocks[..., None] - largest[..., None] * table)
    moved = np.abs(found.reshape(blocks.shape) - blocks)
    kept = moved <= distance.min(-1) * (1 + 1e-5) + 1e-7 * largest
    if not signed:  # what is not 0 does not become 0
        assert ((found > 0) == (x > 0)).all()
        kept |= found.reshape(blocks.shape) == largest * table[1]
    assert kept.all()
    assert (found[0, 0] == 0).all()


def test_blocks_divide_the_axis():
    lengths = {192: 192, 768: 256, 1000: 250, 1024: 256, 4096: 256, 1009: 1009}
    assert {size: storage.block_length(size) for size in lengths} == lengths


def test_bfloat16_is_rounded_without_bias():
    x = jnp.full((1 << 16,), 1 + 0.25 * 2**-7, jnp.float32)  # a quarter between neighbours
    found = np.asarray(storage.round_at_random(x, jax.random.key(0)), np.float32)
    assert set(np.unique(found)) == {1.0, 1 + 2**-7}
    assert (found > 1).mean() == pytest.approx(0.25, abs=0.01)


def test_a_decaying_second_moment_in_bfloat16_decays():
    """Of gradients that have become 0; nearest rounding would keep it where it is."""
    params = {"fc": {"kernel": jnp.ones((64, 64))}}
    tx = create(params, name="adam", second_moment_dtype="bfloat16", steps=400)

    @jax.jit
    def many(state):
        def step(state, _):
            return tx.update(jax.tree.map(jnp.zeros_like, params), state, params)[1], None

        return jax.lax.scan(step, state, None, 300)[0]

    _, state = tx.update(params, tx.init(params), params)
    nu = next(x for x in jax.tree.leaves(state) if x.dtype == jnp.bfloat16)
    after = next(x for x in jax.tree.leaves(many(state)) if x.dtype == jnp.bfloat16)
    ratio = np.mean(np.asarray(after, np.float32)) / np.mean(np.asarray(nu, np.float32))
    assert ratio == pytest.approx(0.999**300, rel=0.02)


@pytest.mark.parametrize(
    "options",
    [
        dict(name="adamw", moment_dtype="8bit", second_moment_dtype="8bit"),
        dict(name="adamw", second_moment_dtype="bfloat16"),
        dict(name="nadamw", moment_dtype="8bit"),
        dict(name="sgd", moment_dtype="8bit", nesterov=True),
    ],
    ids=str,
)
def test_steps_follow_those_of_whole_moments(options):
    start, gradients = draw(0), [draw(step) for step in range(1, 6)]
    options = dict(options, weight_decay=0.1, learning_rate=0.01)
    found = run(start, gradients, **options)
    whole = run(start, gradients, **(options | dict(moment_dtype="float32") | WHOLE))
    for path in SHAPES:
        distance = np.linalg.norm(found[path] - whole[path])
        assert distance <= 0.1 * np.linalg.norm(whole[path] - start[path]), path
        if path == "head/bias" and "bfloat16" not in options.values():
            np.testing.assert_array_equal(found[path], whole[path])  # too small for codes
        elif path != "head/bias":
            assert distance > 0


WHOLE = dict(second_moment_dtype="float32")


def test_state_takes_two_bytes_a_parameter_and_is_sharded_like_it():
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0], 1024, 4096), jnp.float32),
        {"blocks": {"fc": {"kernel": jnp.ones((2, 1, 1))}}},
    )
    tx = create(params, moment_dtype="8bit", second_moment_dtype="8bit")
    state = jax.eval_shape(tx.init, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size / (2 * 1024 * 4096) == pytest.approx(2 + 2 * 4 / 256, rel=1e-4)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    shardings = state_shardings(state, params, mesh)
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    specs = {leaf.shape: sharding.spec for leaf, sharding in leaves if leaf.ndim}
    assert specs[(2, 1024, 4096)] == specs[(2, 1024, 16)] == PartitionSpec(None, None, "fsdp")


def test_sharded_state_gives_the_same_update():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    params = nested(draw(0))
    tx = create(params, moment_dtype="8bit", second_moment_dtype="8bit")

    def step(params, state):
        return tx.update(jax.tree.map(jnp.sin, params), state, params)

    state = tx.init(params)
    _, state = jax.jit(step)(params, state)
    plain, _ = jax.jit(step)(params, state)
    placed = jax.device_put((params, state), state_shardings((params, state), params, mesh))
    sharded, _ = jax.jit(step)(*placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sharded, plain)


@pytest.mark.parametrize(
    "options",
    [
        dict(name="muon", moment_dtype="8bit"),
        dict(name="adafactor", moment_dtype="8bit"),
        dict(name="prodigy", moment_dtype="bfloat16"),
        dict(name="lion", second_moment_dtype="bfloat16"),
    ],
    ids=str,
)
def test_what_an_optimizer_would_ignore_is_refused(options):
    with pytest.raises(InputError, match="moment_dtype='.*' does not go with optimizer"):
        create(nested(draw(0)), **options)

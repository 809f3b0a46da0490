import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec
from scipy.special import ndtr

from vit_jax.models.attention.self_attention import SelfAttention, attend, attention_weights
from vit_jax.models.forms.remat import POLICIES
from vit_jax.models.layers import (
    Dense,
    LayerNorm,
    drop_path,
    dropout,
    fold_in,
    project,
    shard_batch,
    unstack,
)
from vit_jax.models.mlp import Mlp
from vit_jax.parallel.axes import BATCH_AXES

rng = np.random.default_rng(0)


def keys_of(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def draw(*shape, scale=1.0):
    return (scale * rng.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centred", "far from zero"])
def test_layer_norm_equals_torch(offset):
    torch = pytest.importorskip("torch")
    x = draw(4, 7, 32) + np.float32(offset)
    norm = LayerNorm(32, eps=1e-6)
    norm.scale[...], norm.bias[...] = draw(32), draw(32)
    expected = torch.nn.functional.layer_norm(
        torch.tensor(x, dtype=torch.float64),
        (32,),
        torch.tensor(np.array(norm.scale[...]), dtype=torch.float64),
        torch.tensor(np.array(norm.bias[...]), dtype=torch.float64),
        eps=1e-6,
    )
    np.testing.assert_allclose(norm(x), expected.numpy(), rtol=1e-5, atol=1e-3 if offset else 1e-6)


def test_layer_norm_of_bfloat16_is_computed_in_float32():
    x = jnp.asarray(draw(8, 64) + 30.0, jnp.bfloat16)  # a bfloat16 mean would be off by 0.1
    y = LayerNorm(64, dtype=jnp.bfloat16)(x)
    assert y.dtype == jnp.bfloat16
    expected = LayerNorm(64)(x.astype(jnp.float32))
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_gelu_is_the_closed_form(gelu):
    mlp = Mlp(1, 1, rngs=nnx.Rngs(0), gelu=gelu)
    for layer in (mlp.fc1, mlp.fc2):
        layer.kernel[...], layer.bias[...] = jnp.ones((1, 1)), jnp.zeros(1)
    x = np.linspace(-6, 6, 101)
    exact = x * ndtr(x)
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert np.abs(exact - tanh).max() > 1e-4  # so that the test tells them apart
    expected = exact if gelu == "erf" else tanh
    np.testing.assert_allclose(mlp(jnp.asarray(x)[:, None])[:, 0], expected, atol=2e-6)


@pytest.mark.parametrize(
    "inputs, outputs, equation",
    [
        ((6,), (5,), "abx,xy->aby"),
        ((6,), (3, 2, 4), "abx,xrst->abrst"),
        ((2, 3), (5,), "abmn,mny->aby"),
    ],
)
def test_dense_contracts_the_trailing_axes(inputs, outputs, equation):
    dense = Dense(inputs, outputs, rngs=nnx.Rngs(0))
    dense.bias[...] = draw(*outputs)
    x = draw(4, 3, *inputs)
    expected = np.einsum(equation, x, dense.kernel[...]) + dense.bias[...]
    np.testing.assert_allclose(dense(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs", [(8,), (48,), (3, 4, 8)], ids=["narrow", "wide", "cut"])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
def test_the_gradient_of_a_product_is_the_derivative(outputs, dtype, tolerance):
    x, kernel, grad = draw(50, 32), draw(32, *outputs), draw(50, *outputs)
    given = [jnp.asarray(array, dtype) for array in (x, kernel, grad)]
    y, pull = jax.vjp(project, *given[:2])
    dx, dkernel = pull(given[2])
    x, kernel, grad = (np.asarray(array, np.float64) for array in given)
    flat = grad.reshape(50, -1)
    expected = (
        np.tensordot(x, kernel, 1),
        flat @ kernel.reshape(32, -1).T,
        (x.T @ flat).reshape(kernel.shape),
    )
    for found, wanted in zip((y, dx, dkernel), expected):
        assert found.dtype == dtype and found.shape == wanted.shape
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=tolerance * scale)


@pytest.mark.parametrize("outputs", [8, 128])
def test_on_cpus_gradients_of_kernels_are_computed_wide(outputs):
    """XLA would turn the product around again."""
    x, kernel = jnp.ones((50, 32)), jnp.ones((32, outputs))
    gradient = jax.jit(jax.grad(lambda x, kernel: project(x, kernel).sum() ** 2, 1))
    text = gradient.lower(x, kernel).compile().as_text()
    assert re.search(rf"= f32\[{min(outputs, 32)},{max(outputs, 32)}\]\S* dot\(", text)


@pytest.mark.parametrize("remat, products", [("dots_no_batch", 6), ("full", 7)])
def test_policies_of_rematerialisation_keep_products(remat, products):
    def two(x, first, second):
        return project(jnp.sin(project(x, first)), second).sum()

    two = jax.checkpoint(two, policy=POLICIES[remat])
    arguments = jnp.ones((50, 32)), jnp.ones((32, 8)), jnp.ones((8, 4))
    text = jax.jit(jax.value_and_grad(two, (0, 1, 2))).lower(*arguments).as_text()
    assert text.count("dot_general") == products


def test_xavier_bounds_treat_query_key_and_value_one_by_one():
    kernels = {
        "dense": Dense((48,), (192,), rngs=nnx.Rngs(0)).kernel[...],
        "qkv": Dense((48,), (3, 4, 12), groups=1, rngs=nnx.Rngs(0)).kernel[...],
        "out": Dense((4, 12), (48,), rngs=nnx.Rngs(0)).kernel[...],
    }
    bounds = {"dense": (6 / (48 + 192)) ** 0.5, "qkv": (6 / 96) ** 0.5, "out": (6 / 96) ** 0.5}
    for name, kernel in kernels.items():
        largest = float(jnp.abs(kernel).max())
        assert 0.99 * bounds[name] < largest <= bounds[name], name
        assert float(kernel.std()) == pytest.approx(bounds[name] / 3**0.5, rel=0.02), name


def test_attention_equals_torch():
    torch = pytest.importorskip("torch")
    query, key, value = (draw(2, 5, 3, 8) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(x).transpose(1, 2) for x in (query, key, value))
    ).transpose(1, 2)
    actual, weights = attend(query, key, value)
    assert weights is None
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_gradient_of_attention_equals_torch():
    torch = pytest.importorskip("torch")
    arrays = [draw(2, tokens, 3, 8, scale=2.0) for tokens in (5, 7, 7, 5)]
    query, key, value, grad = (torch.tensor(x, dtype=torch.float64) for x in arrays)
    inputs = [x.transpose(1, 2).requires_grad_() for x in (query, key, value)]
    y = torch.nn.functional.scaled_dot_product_attention(*inputs)
    y.backward(grad.transpose(1, 2))
    _, backward = jax.vjp(lambda *inputs: attend(*inputs)[0], *arrays[:3])
    for actual, x in zip(backward(arrays[3]), inputs, strict=True):
        expected = x.grad.transpose(1, 2).numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_slices_and_their_gradient():
    x = draw(2, 3, 4)
    for i, part in enumerate(unstack(jnp.asarray(x), 1)):
        np.testing.assert_array_equal(part, x[:, i])
    weights = draw(3)
    gradient = jax.grad(lambda x: sum(w * y.sum() for w, y in zip(weights, unstack(x, 1))))(x)
    np.testing.assert_array_equal(gradient, np.broadcast_to(weights[:, None], x.shape))


def test_attention_survives_large_scores():
    query = jnp.full((1, 1, 2, 4), 1e4)
    np.testing.assert_array_equal(attention_weights(query, query), jnp.full((1, 1, 2, 2), 0.5))


def test_normalised_queries_and_keys_bound_the_scores():
    attention = SelfAttention(16, 2, rngs=nnx.Rngs(0), qk_norm=True)
    x = draw(2, 5, 16)
    # Whatever scales queries and keys alike leaves the weights as they are.
    _, weights = attention(x, return_weights=True)
    attention.qkv.kernel[...] = attention.qkv.kernel[...].at[:, :2].multiply(1e3)
    _, scaled = attention(x, return_weights=True)
    np.testing.assert_allclose(scaled, weights, atol=1e-4)
    spread = np.log(weights.max(-1) / weights.min(-1))
    assert spread.max() <= 2 * 8**0.5  # |q.k| / sqrt(d) <= sqrt(d)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_zeroes_a_share_and_keeps_the_mean(rate):
    x = jnp.ones((20, 100, 50))
    y = np.asarray(dropout(x, rate, keys_of(20)))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = (rate * (1 - rate) / y.size) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation
    for axis in ((1, 2), (0, 2), (0, 1)):  # no example, row or column is special
        share = kept.mean(axis)
        assert np.abs(share - (1 - rate)).max() < 5 * deviation * share.size**0.5
    assert not np.array_equal(kept[0], kept[1])


def test_dropout_is_off_in_evaluation_and_at_rate_0():
    x = draw(3, 4)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, keys_of(3)) is x
    assert drop_path(x, 0.5, None) is x
    assert fold_in(None, 3) is None


def test_what_is_dropped_belongs_to_the_example():
    x, keys = draw(6, 10, 4), keys_of(6)
    together = dropout(x, 0.5, keys)
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(dropout(x[order], 0.5, keys[order]), together[order])


def test_drop_path_drops_whole_branches_and_keeps_the_mean():
    rate, x = 0.3, jnp.ones((4000, 3, 2))
    y = np.asarray(drop_path(x, jnp.float32(rate), keys_of(4000)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
    assert (y == y[:, :1, :1]).all()
    assert abs((y[:, 0, 0] == 0).mean() - rate) < 4 * (rate * (1 - rate) / 4000) ** 0.5


def test_keys_of_different_sites_differ():
    keys = keys_of(2)
    folded = [jax.random.key_data(fold_in(keys, site)) for site in (0, 1)]
    assert len({tuple(np.asarray(key)) for data in folded for key in data}) == 4


def test_batches_are_split_over_the_batch_axes_of_the_mesh():
    x = jnp.zeros((8, 4))
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        assert jax.jit(shard_batch)(x).sharding.spec == PartitionSpec(("data", "fsdp"))
    assert shard_batch(x) is x


@pytest.mark.parametrize("axis", BATCH_AXES)
def test_batches_cut_by_pmap_are_left_alone(axis):
    x = np.arange(16.0).reshape(8, 2)
    np.testing.assert_array_equal(jax.pmap(shard_batch, axis_name=axis)(x), x)

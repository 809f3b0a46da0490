"""Inference in int8 against integer arithmetic in NumPy, and against float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models import build_model, merge, model_config, split
from vit_jax.models.forms.quantized import Int8Dense, int8
from vit_jax.models.layers import Dense
from vit_jax.trees import path_name

SHAPE = dict(width=24, depth=3, mlp_dim=48, num_heads=4, image_size=(12, 8), patch_size=(4, 4))


def by_numpy(x, kernel, bias, inputs):
    """y, each output's scale and each row's found apart, by integer products of Python's ints."""
    lead, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    rows = x.reshape(-1, np.prod(kernel.shape[:inputs])).astype(np.float64)
    matrix = kernel.reshape(rows.shape[1], -1).astype(np.float64)
    y = np.zeros((len(rows), matrix.shape[1]))
    for i, row in enumerate(rows):
        step = abs(row).max() / 127
        numbers = [round(value / step) for value in row]
        for o in range(matrix.shape[1]):
            scale = abs(matrix[:, o]).max() / 127
            weights = [round(value / scale) for value in matrix[:, o]]
            y[i, o] = sum(a * b for a, b in zip(numbers, weights, strict=True)) * step * scale
    return y.reshape(*lead, *outputs) + bias


@pytest.mark.parametrize("inputs, outputs", [((6,), (3, 2, 4)), ((2, 3), (5,))], ids=str)
def test_a_layer_is_the_integer_product(inputs, outputs):
    dense = Dense(inputs, outputs, rngs=nnx.Rngs(0), bias_init=nnx.initializers.normal(1.0))
    x = np.asarray(jax.random.normal(jax.random.key(1), (2, 3, *inputs)))
    layer = Int8Dense(dense, stacked=False)
    assert layer.kernel[...].dtype == jnp.int8
    expected = by_numpy(x, np.asarray(dense.kernel[...]), np.asarray(dense.bias[...]), len(inputs))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert 1e-4 < abs(layer(x) - dense(x)).max() < 0.05  # rounded, and by little


def test_rows_and_outputs_of_zeros():
    dense = Dense((4,), (3,), rngs=nnx.Rngs(0), bias=False)
    dense.kernel[...] = dense.kernel[...].at[:, 1].set(0.0)
    y = Int8Dense(dense, stacked=False)(jnp.zeros((2, 4)).at[1].set(1.0))
    np.testing.assert_array_equal(y[0], 0.0)
    assert np.isfinite(y).all() and y[1, 1] == 0.0 and abs(y[1, 0]) > 0


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(mlp="swiglu", head="gap", qkv_bias="no_key", unroll=-1),
        dict(block="branched(count=2)", head="map", num_classes=3),
        dict(position_bias="mlp", rotary="indexed", num_heads=3),
        dict(dtype="bfloat16"),
    ],
    ids=str,
)
def test_a_model_gives_nearly_the_same(options):
    config = model_config("ViT-Ti/16", **SHAPE | dict(num_classes=5) | options)
    model = build_model(config, nnx.Rngs(0))
    model.head.kernel[...] = jax.random.normal(jax.random.key(2), model.head.kernel.shape)
    images = jax.random.normal(jax.random.key(3), (4, 12, 8, 3))
    graphdef, params = split(int8(model))
    found = jax.jit(lambda params, images: merge(graphdef, params)(images))(params, images)
    expected = model(images)  # the model itself is as it was
    assert 0 < abs(found - expected).max() < 0.1 * abs(expected).max()
    kernels = {
        path_name(path): leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(params["blocks"])
        if path_name(path).endswith("kernel")
    }
    assert len(kernels) >= 4
    for name, dtype in kernels.items():
        assert dtype == (jnp.float32 if name.startswith("position_bias") else jnp.int8), name


def test_a_resnet_is_refused():
    config = model_config("BiT-R50x1", num_classes=3, image_size=32, resnet_stages=(1,))
    with pytest.raises(InputError, match="int8 is for Transformers"):
        int8(build_model(config, nnx.Rngs(0)))

"""Clipping beside optax.adaptive_grad_clip, timm's definition and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.optim.stepping import create, nested, run
from vit_jax import InputError

L, D, H, K = 2, 6, 2, 3
# Path -> shape, and for one layer the axes of Optax's `axis`: what the norm is taken over.
CASES = {
    "blocks/attention/qkv/kernel": ((L, D, 3, H, K), 0),
    "blocks/attention/out/kernel": ((L, H, K, D), (0, 1)),
    "blocks/mlp/fc1/kernel": ((L, D, 8), 0),
    "blocks/attention/qkv/bias": ((L, 3, H, K), (0, 1, 2)),
    "blocks/norm1/scale": ((L, D), 0),
    "embedding/kernel": ((4, 4, 3, D), (0, 1, 2)),
    "posemb/embedding": ((1, 5, D), (0, 1, 2)),
    "map_head/key_value/kernel": ((D, 2, H, K), 0),
}


def draw(seed, scale=1.0):
    """Gradients whose units have norms of very different sizes."""
    rng = np.random.default_rng(seed)
    return {
        path: (scale * rng.normal(size=shape) * rng.lognormal(0, 2, shape[-1])).astype(np.float32)
        for path, (shape, _) in CASES.items()
    }


def test_adaptive_clipping_equals_optax_layer_by_layer():
    params, gradients = draw(0), draw(1, 0.05)
    params["blocks/norm1/scale"][0] = 0  # the least norm lets it move
    options = dict(name="sgd", momentum=0.0, learning_rate=1.0, clip_adaptive=0.05)
    after = run(params, [gradients], **options)
    clipped = 0
    for path, (_, axis) in CASES.items():
        tx = optax.adaptive_grad_clip(0.05, axis=axis)
        stacked = path.startswith("blocks/")
        layers = (
            zip(gradients[path], params[path]) if stacked else [(gradients[path], params[path])]
        )
        expected = np.stack([tx.update(g, tx.init(p), p)[0] for g, p in layers])
        moved = (params[path] - after[path]).reshape(expected.shape)
        atol = 1e-6 * np.abs(params[path]).max()
        np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=atol, err_msg=path)
        clipped += not np.allclose(expected.reshape(gradients[path].shape), gradients[path])
    assert clipped > len(CASES) / 2


def test_adaptive_clipping_leaves_the_classifier_out():
    start = {"head/kernel": np.ones((2, 2), np.float32), "head/bias": np.ones(2, np.float32)}
    gradients = [{path: 100 * p for path, p in start.items()}]
    options = dict(name="sgd", momentum=0.0, learning_rate=1.0)
    after = run(start, gradients, clip_adaptive=0.01, **options)
    for path, p in start.items():
        np.testing.assert_array_equal(after[path], p - 100)


def test_clipping_by_value_and_then_by_norm_equals_torch():
    torch = pytest.importorskip("torch")
    start, gradient = draw(0), draw(1)
    tensors = {path: torch.tensor(p, requires_grad=True) for path, p in start.items()}
    for path, tensor in tensors.items():
        tensor.grad = torch.tensor(gradient[path])
    torch.nn.utils.clip_grad_value_(tensors.values(), 0.5)
    torch.nn.utils.clip_grad_norm_(tensors.values(), 2.0)
    options = dict(name="sgd", momentum=0.0, learning_rate=1.0, clip_value=0.5, clip_norm=2.0)
    after = run({path: 0 * p for path, p in start.items()}, [gradient], **options)
    for path, tensor in tensors.items():
        np.testing.assert_allclose(-after[path], tensor.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_frozen_parameters_are_left_out_of_adaptive_clipping():
    params = nested(draw(0))
    tx = create(params, clip_adaptive=0.01, freeze=("embedding/.*",))
    updates, _ = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    assert not jnp.any(updates["embedding"]["kernel"])
    assert jnp.any(updates["blocks"]["mlp"]["fc1"]["kernel"])


@pytest.mark.parametrize("name", ["clip_value", "clip_adaptive", "sam_rho"])
def test_negative_limits_are_refused(name):
    with pytest.raises(InputError, match=f"{name} is -1"):
        create(nested(draw(0)), **{name: -1.0})

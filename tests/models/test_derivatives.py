"""Forward mode and second derivatives of a model, against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import vit_jax
from vit_jax.models.attention.self_attention import attention
from vit_jax.models.layers import project


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def plain_project(x, kernel):
    return jnp.einsum("ni,iho->nho", x, kernel)


def plain_attention(query, key, value):
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), value)


FUNCTIONS = [
    (project, plain_project, [(6, 4), (4, 2, 3)], 1e-9),
    (attention, plain_attention, [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 4)], 2e-5),
]


@pytest.mark.parametrize("own, plain, shapes, tolerance", FUNCTIONS, ids=["project", "attention"])
def test_derivatives_of_any_order_and_mode_are_those_of_the_plain_formula(
    own, plain, shapes, tolerance
):
    at = tuple(draw(*shape, seed=i) for i, shape in enumerate(shapes))
    along = tuple(draw(*shape, seed=10 + i) for i, shape in enumerate(shapes))

    def derivatives(function):
        every = tuple(range(len(at)))
        gradient = jax.grad(lambda *args: jnp.sin(function(*args)).sum(), every)
        twice = jax.grad(lambda *args: sum(jnp.sin(g).sum() for g in gradient(*args)), every)
        two = jax.tree.map(lambda x, dx: jnp.stack([x, dx]), at, along)
        return dict(
            forward=jax.jvp(function, at, along),
            forward_twice=jax.jvp(lambda *x: jax.jvp(function, x, along)[1], at, along),
            reverse=gradient(*at),
            forward_over_reverse=jax.jvp(gradient, at, along),
            reverse_over_reverse=twice(*at),
            reverse_over_forward=jax.grad(lambda *x: jax.jvp(function, x, along)[1].sum())(*at),
            batched=jax.vmap(gradient)(*two),
            of_a_batch=jax.grad(lambda *args: jnp.sin(jax.vmap(function)(*args)).sum())(*two),
        )

    expected, found = derivatives(plain), derivatives(own)
    for name in expected:
        for x, y in zip(jax.tree.leaves(expected[name]), jax.tree.leaves(found[name]), strict=True):
            np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("remat", ["none", "names", "full"])
def test_tangents_and_hessian_products_of_a_model_are_finite_differences(remat):
    model = vit_jax.create_model(
        *("ViT-Ti/4",),
        **dict(width=16, depth=2, mlp_dim=24, num_heads=2, image_size=8, num_classes=3),
        remat=remat,
    )
    graphdef, params = vit_jax.models.split(model)
    flat, unravel = ravel_pytree(params)
    flat = flat + 0.1 * draw(*flat.shape)
    images, along = draw(2, 8, 8, 3, seed=1), draw(*flat.shape, seed=2)
    along = along / jnp.linalg.norm(along)

    @jax.jit
    def loss(flat):
        logits = vit_jax.models.merge(graphdef, unravel(flat))(images)
        return jnp.square(logits).mean()

    step = 0.02  # the model computes in float32
    around = (flat - step * along, flat + step * along)
    value, tangent = jax.jvp(loss, [flat], [along])
    assert value == pytest.approx(float(loss(flat)), rel=1e-6)
    low, high = map(loss, around)
    assert tangent == pytest.approx(float(high - low) / (2 * step), rel=2e-3)
    gradient = jax.jit(jax.grad(loss))
    assert tangent == pytest.approx(float(gradient(flat) @ along), rel=1e-4)
    _, product = jax.jvp(gradient, [flat], [along])
    low, high = map(gradient, around)
    expected = (high - low) / (2 * step)
    assert np.abs(product - expected).max() < 0.02 * np.abs(expected).max()

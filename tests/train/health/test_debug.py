"""The first operation that yields a number which is not finite."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vit_jax.train.health import debug


@pytest.fixture(autouse=True)
def lines_of_this_file(monkeypatch):
    monkeypatch.setattr(debug, "_PACKAGE", str(Path(__file__).parents[2]))


def find(function, *args):
    return debug.find_first(function, *args)


def test_forward_inside_scan_checkpoint_and_jit():
    @jax.jit
    def layer(x, scale):
        return jnp.exp(x * scale)  # overflows in the third layer

    def loss(x):
        body = jax.checkpoint(lambda carry, scale: (layer(carry, scale), None))
        return jnp.sum(jax.lax.scan(body, x, jnp.array([1.0, 2.0, 30.0]))[0])

    found = find(jax.value_and_grad(loss), jnp.ones(3))
    assert found.startswith("exp at tests/train/health/test_debug.py:")
    assert "# overflows in the third layer" in found
    assert "gives 0 NaN and 3 infinite of 3 numbers" in found


def test_backward_alone():
    """The square root of zero is finite, its derivative is not."""

    def loss(x):
        return jnp.sum(jnp.sqrt(x))  # at zero

    found = find(jax.value_and_grad(loss), jnp.array([0.0, 4.0]))
    assert found.startswith("div at") and "# at zero" in found


def test_a_parameter_that_is_not_finite_is_named():
    params = {"head": {"kernel": jnp.array([1.0, jnp.nan])}, "bias": jnp.zeros(2)}
    found = find(lambda params: params["bias"].sum(), params)
    assert found == "the input head/kernel is not finite itself: 1 NaN and 0 infinite of 2 numbers"


def test_infinities_that_are_meant_are_no_fault():
    def masked(x):
        return jax.nn.softmax(jnp.where(x > 0, x, -jnp.inf)).sum()

    found = find(jax.value_and_grad(masked), jnp.array([1.0, -1.0, 2.0]))
    assert "everything is finite" in found

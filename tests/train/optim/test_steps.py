"""Sharpness-aware and schedule-free steps beside Optax, under every engine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.test_step import ENGINES, Steps, batches
from vit_jax import InputError

COUNT = 4


def loss(params, batch):
    error = batch["x"] @ params["kernel"] + params["bias"] - batch["y"]
    return 0.5 * jnp.mean(error**2)


@jax.jit
def slope(params, batch):
    return jax.grad(loss)(params, batch)


def start():
    return dict(kernel=jnp.array([1.0, -2.0]), bias=jnp.float32(0.5))


@pytest.mark.parametrize("parallel", ENGINES, ids=str)
def test_sharpness_aware_steps_equal_optax(parallel):
    """optax.contrib.sam takes both gradients of a step by itself in its opaque mode."""
    steps, params = Steps(parallel, sam_rho=0.3), start()
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    tx = optax.contrib.sam(optax.sgd(0.1), ascent, sync_period=2, opaque_mode=True)
    state = tx.init(params)
    for batch in batches(COUNT):
        metrics = steps(batch)
        assert metrics["loss"] == pytest.approx(float(loss(params, batch)), rel=1e-5)
        updates, state = tx.update(
            slope(params, batch), state, params, grad_fn=lambda p, _, b=batch: slope(p, b)
        )
        params = optax.apply_updates(params, updates)
    for name, p in params.items():
        np.testing.assert_allclose(steps.state.params[name], p, rtol=1e-5)


def test_sharpness_aware_steps_leave_frozen_parameters_where_they_are():
    """With the bias frozen, the ascent goes along the kernel's gradient alone."""
    steps = Steps(sam_rho=0.3, freeze=("bias",))
    batch, params = batches(1)[0], start()
    steps(batch)
    gradient = slope(params, batch)["kernel"]
    nearby = dict(params, kernel=params["kernel"] + 0.3 * gradient / jnp.linalg.norm(gradient))
    expected = params["kernel"] - 0.1 * slope(nearby, batch)["kernel"]
    np.testing.assert_allclose(steps.state.params["kernel"], expected, rtol=1e-5)
    assert float(steps.state.params["bias"]) == 0.5


@pytest.mark.parametrize(
    "base, theirs",
    [
        ("sgd", lambda mask: optax.chain(optax.add_decayed_weights(0.1, mask), optax.scale(-0.1))),
        ("adamw", lambda mask: optax.adamw(0.1, b1=0.0, weight_decay=0.1, mask=mask)),
    ],
)
@pytest.mark.parametrize("parallel", [ENGINES[0], ENGINES[1], ENGINES[4]], ids=str)
def test_schedule_free_parameters_are_optaxs_for_evaluation(parallel, base, theirs):
    name = f"schedule_free(base='{base}', b1=0.8)"
    steps, params = Steps(parallel, name=name, weight_decay=0.1), start()
    tx = optax.contrib.schedule_free(theirs(dict(kernel=True, bias=False)), 0.1, b1=0.8)
    state = tx.init(params)
    for batch in batches(COUNT):
        metrics = steps(batch)
        assert metrics["loss"] == pytest.approx(float(loss(params, batch)), rel=1e-4)
        updates, state = tx.update(slope(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    expected = optax.contrib.schedule_free_eval_params(state, params)
    for key, p in expected.items():
        np.testing.assert_allclose(steps.state.params[key], p, rtol=1e-4, err_msg=key)


def test_schedule_free_weighs_steps_of_the_warm_up_as_optax_does():
    steps, params = Steps(name="schedule_free(base='sgd')", warmup=dict(steps=3)), start()
    rate = optax.linear_schedule(0.0, 0.1, 3)
    tx = optax.contrib.schedule_free(optax.sgd(rate), rate)
    state = tx.init(params)
    for batch in batches(5):
        steps(batch)
        updates, state = tx.update(slope(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    expected = optax.contrib.schedule_free_eval_params(state, params)
    for key, p in expected.items():
        np.testing.assert_allclose(steps.state.params[key], p, rtol=1e-4, err_msg=key)


def test_schedule_free_with_frozen_parameters():
    steps = Steps(name="schedule_free", freeze=("bias",))
    steps(batches(1)[0])
    assert float(steps.state.params["bias"]) == 0.5
    assert not np.allclose(steps.state.params["kernel"], [1.0, -2.0])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(schedule="cosine"), "set config.optimizer.schedule='constant'"),
        (dict(ema_decay=0.9), "set config.optimizer.ema_decay to 0"),
        (dict(name="schedule_free(base='lion')"), "unknown .*base 'lion'"),
        (dict(name="schedule_free(b1=0.0)"), "b1 is 0.0; it must be above 0"),
    ],
)
def test_wrong_schedule_free_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Steps(**(dict(name="schedule_free") | options))

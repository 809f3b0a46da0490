"""The start of parameter averages beside timm's and TensorFlow's published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.optim.stepping import create
from tests.train.test_step import Steps, batches
from vit_jax import InputError
from vit_jax.train.optim import update_ema

VALUES = np.random.default_rng(0).normal(size=30)


def timm_decay(number, decay, gamma, power):
    """ModelEmaV3.get_decay of timm 1.0.31 after update `number`, from 1, with use_warmup."""
    step = max(0, number - 0 - 1)
    if step <= 0:
        return 0.0
    return max(min(1 - (1 + step / gamma) ** -power, decay), 0.0)


RULES = {
    "power": lambda number: timm_decay(number, 0.9, 1.0, 0.6667),
    "power(inv_gamma=4.0, power=1.0)": lambda number: timm_decay(number, 0.9, 4.0, 1.0),
    # tf.train.ExponentialMovingAverage(decay, num_updates): num_updates from 0.
    "tensorflow": lambda number: min(0.9, (1 + number - 1) / (10 + number - 1)),
    "none": lambda number: 0.9,
}


@pytest.mark.parametrize("warmup", RULES)
def test_averages_begin_as_published(warmup):
    update = jax.jit(update_ema, static_argnums=(2, 4))
    average = expected = 7.0
    for step, value in enumerate(VALUES):
        average = update(jnp.float32(average), jnp.float32(value), 0.9, step, warmup)
        decay = RULES[warmup](step + 1)
        expected = decay * expected + (1 - decay) * value
        assert float(average) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_a_run_keeps_such_an_average(engine):
    steps = Steps(dict(engine=engine), ema_decay=0.9, ema_warmup="tensorflow")
    expected = np.array([1.0, -2.0])
    for step, batch in enumerate(batches(3)):
        steps(batch)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.asarray(steps.state.params["kernel"])
    np.testing.assert_allclose(steps.state.ema["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(ema_warmup="power"), "ema_warmup needs config.optimizer.ema_decay"),
        (dict(ema_warmup="powr", ema_decay=0.9), "unknown config.optimizer.ema_warmup 'powr'"),
        (dict(ema_warmup="power(gamma=1)", ema_decay=0.9), "unknown option .*'gamma'"),
        (dict(ema_warmup="power(power=0.0)", ema_decay=0.9), "power is 0.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        create({"head": {"kernel": jnp.ones((2, 2))}}, **options)

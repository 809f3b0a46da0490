"""One training run under every layout and engine: the same numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.parallel.pjit import PjitEngine
from vit_jax.parallel.pmap import PmapEngine
from vit_jax.train.setup import Dataset, prepare

BATCH, STEPS = 16, 20
LAYOUTS = {
    "data=8": dict(data=8),
    "fsdp=8": dict(data=1, fsdp=8),
    "data=2 fsdp=4": dict(data=2, fsdp=4),
    "tensor=2 fsdp=4": dict(data=1, fsdp=4, tensor=2),
    "replica=2 data=2 fsdp=2": dict(replica=2, data=2, fsdp=2),
}


def make_config(**parallel):
    """A small ViT with everything that could depend on the layout: dropout, mixup, EMA."""
    config = configs.default()
    config.model.update(
        name="ViT-Ti/4",
        width=128,
        depth=2,
        mlp_dim=256,
        num_heads=4,
        dropout=0.1,
        attention_dropout=0.1,
        stochastic_depth=0.1,
    )
    config.batch_size = BATCH
    config.total.steps = STEPS
    config.mixup.alpha = 0.4
    config.optimizer.ema_decay = 0.9
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup.steps = 5
    # Adam divides by gradients' sizes: where they are all but zero, rounding would decide.
    config.optimizer.eps = 1e-3
    config.parallel.update(parallel)
    return config


def make_run(engine=None, **parallel):
    dataset = Dataset(64, 10, (16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return prepare(make_config(**parallel), dataset, engine)


def one_device_run(**parallel):
    config = make_config(**parallel)
    return make_run(PjitEngine(config.parallel, jax.devices()[:1]), **parallel)


@functools.cache
def batches():
    """Noise whose brightness gives the class away."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(STEPS):
        label = rng.integers(0, 10, BATCH, dtype=np.int32)
        noise = rng.integers(0, 25, (BATCH, 16, 16, 3))
        result.append(
            dict(image=(25 * label[:, None, None, None] + noise).astype(np.uint8), label=label)
        )
    return result


def train(run, steps=STEPS):
    """Losses of every step and the state at the end."""
    state = run.engine.init(run.create)
    losses = []
    for batch in batches()[:steps]:
        state, metrics = run.train_step(state, run.engine.put_batch(batch, BATCH))
        losses.append(float(metrics["loss"]))
    return np.array(losses), jax.tree.map(np.asarray, (state.params, state.ema))


@functools.cache
def reference():
    return train(one_device_run())


def assert_same(result, expected, tolerance=1e-5):
    np.testing.assert_allclose(result[0], expected[0], rtol=tolerance)
    assert expected[0][-1] < expected[0][0]  # it has learnt something
    for leaf, wanted in zip(jax.tree.leaves(result[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_run_of_one_device(layout, capfd):
    run = make_run(**LAYOUTS[layout])
    assert_same(train(run), reference())
    assert "full rematerialization" not in capfd.readouterr().err

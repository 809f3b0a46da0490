"""The step on the device at hand, beside the same step on the CPU in float32."""

import functools

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from vit_jax import config as configs
from vit_jax.parallel.pjit import PjitEngine
from vit_jax.train.run import Dataset, prepare
from vit_jax.train.step import make_gradient

pytestmark = [pytest.mark.cpu, pytest.mark.gpu, pytest.mark.tpu]

DATASET = Dataset(64, 10, (32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Distance of loss and of the gradient's direction from those in float32 on the CPU.
TOLERANCES = {"float32": (1e-5, 1e-6), "bfloat16": (2e-2, 1e-3)}


def make_config(dtype, **model):
    config = configs.default()
    shape = dict(name="ViT-Ti/8", width=128, depth=2, mlp_dim=256, num_heads=2, head="gap")
    config.model.update(shape | dict(dtype=dtype) | model)
    config.batch_size = 16
    config.total.steps = 5
    return config


@functools.cache
def batch():
    rng = np.random.default_rng(0)
    return dict(
        image=rng.integers(0, 256, (16, 32, 32, 3), np.uint8),
        label=rng.integers(0, 10, 16, np.int32),
    )


def params_of(run):
    """Random everywhere: a fresh head is zero, and no gradient would get past it."""
    flat, back = ravel_pytree(run.engine.init(run.create).params)
    return back(np.asarray(flat) + np.random.default_rng(1).normal(0, 0.05, flat.shape))


def loss_and_gradient(config, device, params=None):
    run = prepare(config, DATASET, PjitEngine(config.parallel, [device]))
    params = jax.device_put(params if params is not None else params_of(run), device)
    with jax.default_device(device):
        placed = run.engine.put_batch(batch(), 16)
        gradient = jax.jit(make_gradient(run.task))
        with jax.set_mesh(run.engine.mesh):
            loss, grads = gradient(params, placed, np.int32(0))
    return float(loss), np.asarray(ravel_pytree(grads)[0], np.float64), params


@pytest.mark.parametrize("model", [dict(), dict(remat="full"), dict(qk_norm=True)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_loss_and_gradient_are_those_of_the_cpu(dtype, model):
    cpu = jax.devices("cpu")[0]
    loss, grads, params = loss_and_gradient(make_config("float32", **model), cpu)
    host = jax.tree.map(np.asarray, params)
    found, found_grads, _ = loss_and_gradient(make_config(dtype, **model), jax.devices()[0], host)
    close, direction = TOLERANCES[dtype]
    assert found == pytest.approx(loss, rel=close)
    norms = np.linalg.norm(grads) * np.linalg.norm(found_grads)
    assert grads @ found_grads / norms > 1 - direction
    assert np.linalg.norm(found_grads) == pytest.approx(np.linalg.norm(grads), rel=10 * close)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_batch_is_learned_by_heart(dtype):
    config = make_config(dtype)
    config.optimizer.update(learning_rate=3e-3, schedule="constant", weight_decay=0.0)
    run = prepare(config, DATASET, PjitEngine(config.parallel, jax.devices()[:1]))
    state, losses = run.engine.init(run.create), []
    for _ in range(30):
        state, metrics = run.train_step(state, run.engine.put_batch(batch(), 16))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(10), rel=0.01) and losses[-1] < 0.3 * losses[0]
    assert int(state.skipped) == 0

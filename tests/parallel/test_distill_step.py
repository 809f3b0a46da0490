"""The step of a distillation on several devices: engines, layout, program."""

import dataclasses

import jax
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.parallel.engines import create_engine
from vit_jax.plan.compile import compile_step
from vit_jax.train import loop
from vit_jax.train.run import Dataset, prepare

TINY = dict(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
DATASET = Dataset(640, 10, (8, 8), (0.5,) * 3, (0.5,) * 3, labels=tuple("0123456789"))


def run_config(**options):
    config = configs.default()
    config.model.update(TINY)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.batch_size = 64
    config.total.steps = 10
    config.optimizer.learning_rate = 5e-3
    config.log.tensorboard = False
    config.update_from_flattened_dict(options)
    return config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model of digits at 12 pixels, with another normalisation, after one step."""
    path = tmp_path_factory.mktemp("teacher")
    own = {"data.pp": "resize(12)|value_range(0, 1)", "model.width": 48, "total.steps": 1}
    loop.train(run_config(**own), str(path))
    return str(path)


def distilling(teacher, **options):
    return run_config(**{"task": "distill", "distill.teacher": teacher} | options)


def state_after(config, batches, parallel):
    config.parallel.update(parallel)
    engine = create_engine(config.parallel)
    run = prepare(config, DATASET, engine).with_teacher(None)
    state = engine.init(run.create)
    losses = []
    for batch in batches:
        state, metrics = run.train_step(state, engine.put_batch(batch, config.batch_size))
        losses.append(float(metrics["loss"]))
    return run, jax.tree.map(np.asarray, state.params), losses


def test_engines_and_microbatches_agree(teacher):
    """A teacher's parameters are sharded by the rules, or on every device."""
    rng = np.random.default_rng(0)
    batches = [
        dict(
            image=rng.integers(0, 256, (64, 8, 8, 3), np.uint8),
            label=rng.integers(0, 10, 64).astype(np.int32),
        )
        for _ in range(2)
    ]
    options = {"distill.kind": "feature", "mixup.alpha": 0.5, "optimizer.name": "sgd"}
    options |= {"optimizer.schedule": "constant", "optimizer.learning_rate": 0.1}
    results = [
        state_after(distilling(teacher, **options), batches, parallel)
        for parallel in (
            dict(engine="pmap"),
            dict(engine="pjit", data=2, fsdp=4, accumulate=2, replicated_tolerance=1.0),
        )
    ]
    (run, params, losses), (sharded_run, sharded, sharded_losses) = results
    assert "distill" in params
    np.testing.assert_allclose(losses, sharded_losses, rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (params, sharded)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    placed = {leaf.sharding for leaf in jax.tree.leaves(run.teacher.params)}
    assert placed == {run.engine.replicated}
    for leaf, wanted in zip(
        *map(jax.tree.leaves, (sharded_run.teacher.params, sharded_run.teacher.abstract)),
        strict=True,
    ):
        assert leaf.sharding == wanted.sharding


def test_the_teacher_is_an_argument_and_counts_in_the_plan(teacher):
    config = distilling(teacher)
    engine = create_engine(config.parallel)
    run = prepare(config, DATASET, engine).with_teacher(None)
    step = compile_step(config, DATASET)
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(run.teacher.params))
    assert step.teacher_bytes == size > 0
    forward = run.task.train_flops(run.model_config) - dataclasses.replace(
        run.task, teacher=None
    ).train_flops(run.model_config)
    tokens = 1 + 9
    block = tokens * (4 * 48**2 + 2 * 48 * 64) + 2 * tokens**2 * 48
    assert forward == 2 * (9 * 48 * 48 + block + 48 * 10)
    # Other parameters give another loss from the same program.
    rng = np.random.default_rng(0)
    batch = dict(image=rng.integers(0, 256, (64, 8, 8, 3), np.uint8), label=np.zeros(64, np.int32))
    losses = []
    for frozen in (run.teacher.params, jax.tree.map(lambda x: 2 * x, run.teacher.params)):
        placed = engine.put_batch(batch, 64)
        _, metrics = run.train_step.given(frozen)(engine.init(run.create), placed)
        losses.append(float(metrics["loss"]))
    assert run.train_step.inner.function._cache_size() == 1
    assert abs(losses[0] - losses[1]) > 1e-3

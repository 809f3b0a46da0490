"""One training run under every layout and engine: the same numbers."""

import functools
import math

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from vit_jax import config as configs
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.errors import InputError
from vit_jax.parallel.engines import create_engine
from vit_jax.parallel.pjit import PjitEngine
from vit_jax.train.run import Dataset, prepare
from vit_jax.train.state import TrainState

BATCH, STEPS = 16, 20
DATASET = Dataset(64, 10, (16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LAYOUTS = {
    "data=8": dict(data=8),
    "fsdp=8": dict(data=1, fsdp=8),
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


def make_run(built=None, **parallel):
    return prepare(make_config(**parallel), DATASET, built)


def one_device_run(**parallel):
    return run_on(1, **parallel)


def run_on(devices, **parallel):
    config = make_config(**parallel)
    return make_run(PjitEngine(config.parallel, jax.devices()[:devices]), **parallel)


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


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_run_of_one_device(layout, capfd):
    run = make_run(**LAYOUTS[layout])
    assert_same(train(run), reference())
    assert "full rematerialization" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(posemb="relative", posemb_where="layers"),
        dict(posemb="learned2d", attention_kind="axial", head="gap"),
        dict(attention_kind="halo(3, 1, relative=True)", registers=2),
        dict(attention_kind="sparse(factors='by_layer')"),
        dict(attention_kind="local_2d(2, 2, above=2, beside=1)", head="gap"),
    ],
    ids=str,
)
def test_heads_and_kernels_are_cut_under_other_attention_too(options, capfd):
    def losses(devices=None, **parallel):
        config = make_config(**parallel)
        config.model.update(options)
        config.parallel.replicated_tolerance = 0.1  # offsets between 16 patches are few
        engine = PjitEngine(config.parallel, devices)
        return train(prepare(config, DATASET, engine), steps=4)[0]

    expected = losses(jax.devices()[:1])
    np.testing.assert_allclose(losses(**LAYOUTS["tensor=2 fsdp=4"]), expected, rtol=1e-5)
    assert expected[0] != expected[-1]
    assert "full rematerialization" not in capfd.readouterr().err


@pytest.mark.slow
def test_pmap_gives_the_run_of_one_device():
    assert_same(train(make_run(engine="pmap")), reference())


@pytest.mark.slow
def test_a_run_changes_engine_layout_and_device_count(tmp_path):
    """Two slices of 4 devices, one of them, 1 device, 8 under pmap, 8 with fsdp.

    The data and the numbers go on.
    """
    stages = [
        make_run(replica=2, data=1, fsdp=4),
        run_on(4, replica=1, data=1, fsdp=4),
        one_device_run(),
        make_run(engine="pmap"),
        make_run(**LAYOUTS["fsdp=8"]),
    ]
    checkpoints = Checkpoints(tmp_path, stages[0].config.checkpoint)
    losses = []
    for i, run in enumerate(stages):
        if i == 0:
            state = run.engine.init(run.create)
        else:
            step, items = checkpoints.restore_newest(run.abstract.items())
            state = TrainState.from_items(items)
            assert int(state.step) == step == 4 * i
        for batch in batches()[4 * i : 4 * i + 4]:
            state, metrics = run.train_step(state, run.engine.put_batch(batch, BATCH))
            losses.append(float(metrics["loss"]))
        state = run.engine.globalize(state)
        checkpoints.save(int(state.step), state.items(), {}, {})
        checkpoints.wait()
    result = np.array(losses), jax.tree.map(np.asarray, (state.params, state.ema))
    assert_same(result, reference())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_accumulated_microbatches_equal_the_full_batch(engine):
    layout = dict(data=2, fsdp=4) if engine == "pjit" else dict(engine="pmap")

    def gradient(run):
        """All of it in one vector, times 100: what a step of plain SGD moves parameters by."""
        run = prepare(_plain_sgd(run.config), DATASET, run.engine)
        before = run.engine.init(run.create)
        # Away from the start, where the head is zero and no gradient passes it.
        before = before.replace(params=jax.tree.map(_shifted, before.params))
        start = ravel_pytree(jax.tree.map(np.asarray, before.params))[0]
        batch = run.engine.put_batch(batches()[0], BATCH)
        after, metrics = run.train_step(before, batch)
        return start - ravel_pytree(jax.tree.map(np.asarray, after.params))[0], metrics["loss"]

    accumulated, loss = gradient(make_run(**layout, accumulate=2))
    full, full_loss = gradient(one_device_run())
    np.testing.assert_allclose(loss, full_loss, rtol=1e-6)
    assert np.linalg.norm(accumulated - full) < 1e-6 * np.linalg.norm(full)


def _shifted(leaf):
    shift = 0.05 * np.sin(np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape)
    return jax.device_put(np.asarray(leaf) + shift, leaf.sharding)


def _plain_sgd(config):
    config.optimizer.update(
        name="sgd", momentum=0.0, learning_rate=100.0, clip_norm=0.0, weight_decay=0.0
    )
    config.optimizer.warmup.steps = 0
    return config


def test_state_is_born_sharded():
    """No device holds more of a sharded parameter, its moments or its average than its part."""
    run = make_run(**LAYOUTS["tensor=2 fsdp=4"])
    state = run.engine.init(run.create)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (2, 128, 256)]
    kernels = [state.params["blocks"]["mlp"]["fc1"]["kernel"], *moments]
    assert len(moments) == 2  # Adam's first and second
    for kernel in [*kernels, state.ema["blocks"]["mlp"]["fc1"]["kernel"]]:
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 32, 128)}


@pytest.mark.parametrize("layout", ["data=8", "fsdp=8"])
def test_the_new_state_takes_the_memory_of_the_old(layout):
    run = make_run(**LAYOUTS[layout])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batches()[0].items()}
    lowered = run.train_step.lower(run.abstract, run.engine.abstract_batch(shapes))
    local = [
        leaf.sharding.shard_shape(leaf.shape) + (leaf.dtype.itemsize,)
        for leaf in jax.tree.leaves(run.abstract)
    ]
    size_on_a_device = sum(map(math.prod, local))
    assert lowered.compile().memory_analysis().alias_size_in_bytes == size_on_a_device


def test_pmap_puts_batches_on_its_own_devices_alone():
    config = configs.default()
    config.parallel.engine = "pmap"
    engine = create_engine(config.parallel, jax.devices()[:1])
    found = engine.put_batch({"x": np.arange(7.0)}, 7)["x"]
    assert found.devices() == {jax.devices()[0]} and found.shape == (1, 7)


def test_pmap_refuses_sharded_parameters():
    with pytest.raises(InputError, match="fsdp=8 needs engine 'pjit'"):
        make_run(engine="pmap", data=1, fsdp=8)

"""The step on a line of three parameters, beside NumPy and optax."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vit_jax import config as configs
from vit_jax.parallel.engines import create_engine
from vit_jax.tasks import Task, bind
from vit_jax.train.optim import create_optimizer
from vit_jax.train.state import TrainState, create_state
from vit_jax.train.step import make_train_step

BATCH, RATE = 16, 0.1
START = {"bias": 0.5, "kernel": np.array([1.0, -2.0])}
ENGINES = [
    dict(engine="pjit"),
    dict(engine="pjit", data=2, fsdp=4, replicated_tolerance=1.0),
    dict(engine="pjit", accumulate=2),
    dict(engine="pjit", replica=2, data=4, accumulate=2),
    dict(engine="pmap"),
    dict(engine="pmap", accumulate=2),
]


class Line(nnx.Module):
    """(B, 2) -> (B,): two slopes and an offset."""

    def __init__(self, rngs: nnx.Rngs | None = None):
        self.kernel = nnx.Param(jnp.asarray(START["kernel"], jnp.float32))
        self.bias = nnx.Param(jnp.asarray(START["bias"], jnp.float32))

    def __call__(self, x):
        return x @ self.kernel[...] + self.bias[...]


@dataclasses.dataclass(frozen=True)
class Squares(Task):
    """Half of the squared error."""

    batch_fields = ("x", "y")

    def inputs(self, batch, key, axis_name):
        return batch

    def losses(self, model, inputs, axis_name):
        return 0.5 * (model(inputs["x"]) - inputs["y"]) ** 2

    def rows(self, model, batch, axis_name):
        return {"loss": self.losses(model, batch, axis_name)}


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        dict(
            x=rng.normal(size=(BATCH, 2)).astype(np.float32),
            y=rng.normal(size=BATCH).astype(np.float32),
        )
        for _ in range(count)
    ]


class Steps:
    """The compiled step of a config and the state that it is at."""

    def __init__(self, parallel=None, **optimizer):
        config = configs.default()
        config.parallel.update(parallel or {})
        plain = dict(name="sgd", momentum=0.0, schedule="constant", learning_rate=RATE)
        config.optimizer.update(plain | dict(clip_norm=0.0, weight_decay=0.0) | optimizer)
        graphdef, params = nnx.split(Line())
        params = nnx.to_pure_dict(params)
        make, self.schedule = create_optimizer(
            config.optimizer, params, 100, batch_size=BATCH, train_size=1000
        )
        task = bind(Squares(), config, None, graphdef, (0.0,) * 3, (1.0,) * 3)
        self.engine = create_engine(config.parallel)

        def create():
            ema = config.optimizer.ema_decay > 0
            return create_state(nnx.to_pure_dict(nnx.state(Line())), make, ema=ema)

        abstract = self.engine.abstract(create)
        self.step = self.engine.compile_train(
            functools.partial(make_train_step, task, make, self.schedule), abstract
        )
        self.state: TrainState = self.engine.init(create)

    def __call__(self, batch):
        placed = self.engine.put_batch(batch, BATCH)
        self.state, metrics = self.step(self.state, placed)
        return jax.tree.map(np.asarray, metrics)

    def arrays(self):
        """All but the counters."""
        state = self.state
        return jax.tree.map(np.asarray, (state.params, state.opt_state, state.ema))


def gradient(params, batch):
    """In double precision, by hand: the mean of error and of error times x."""
    x, y = batch["x"].astype(float), batch["y"].astype(float)
    error = x @ params["kernel"] + params["bias"] - y
    return 0.5 * np.mean(error**2), {"bias": error.mean(), "kernel": error @ x / len(x)}


def assert_equal(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("parallel", ENGINES, ids=str)
def test_a_state_is_traced_once_for_its_shapes_and_its_arrays(parallel):
    config = configs.default()
    config.parallel.update(parallel)
    engine, traced = create_engine(config.parallel), []

    def create():
        traced.append(True)
        params = nnx.to_pure_dict(nnx.state(Line()))
        return create_state(params, optax.sgd(0.1), ema=False)

    shapes = engine.abstract(create)
    state = engine.init(create)
    assert len(traced) == 1
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize("parallel", ENGINES, ids=str)
def test_a_step_goes_down_the_mean_gradient_of_the_global_batch(parallel):
    steps, params = Steps(parallel), dict(START)
    for number, batch in enumerate(batches(3)):
        metrics = steps(batch)
        loss, grads = gradient(params, batch)
        norm = np.sqrt(grads["bias"] ** 2 + (grads["kernel"] ** 2).sum())
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert metrics["learning_rate"] == pytest.approx(RATE)
        assert metrics["skipped"] == metrics["skipped_in_a_row"] == 0
        params = {name: params[name] - RATE * grads[name] for name in params}
        for name, value in params.items():
            np.testing.assert_allclose(steps.state.params[name], value, rtol=1e-5, atol=1e-6)
        assert int(steps.state.step) == number + 1


@pytest.mark.parametrize("parallel", ENGINES, ids=str)
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(parallel):
    steps = Steps(parallel, name="adam", ema_decay=0.9)
    good, bad, again, last = batches(4)
    bad["y"][5] = np.nan
    steps(good)
    before = steps.arrays()
    metrics = steps(bad)
    assert np.isnan(metrics["loss"])
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, 1)
    assert metrics["finite_gradients"].tolist() == [False, False]  # of bias and kernel
    assert_equal(steps.arrays(), before)
    again["x"][0, 1] = np.inf
    metrics = steps(again)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 2)
    assert_equal(steps.arrays(), before)
    metrics = steps(last)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 0)
    assert int(steps.state.step) == 4
    undisturbed = Steps(parallel, name="adam", ema_decay=0.9)
    undisturbed(good)
    undisturbed(last)
    assert_equal(steps.arrays(), undisturbed.arrays())


def test_a_step_that_would_spoil_the_optimizer_changes_nothing_but_the_counters(monkeypatch):
    """After it an estimated rate would be NaN, and every later update, in silence."""

    def update(grads, estimate, params=None, **_):
        estimate = jnp.where(jnp.abs(grads["bias"]) > 1e3, jnp.nan, estimate + 1)
        return jax.tree.map(lambda grad: -grad / estimate, grads), estimate

    estimator = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    monkeypatch.setitem(globals(), "create_optimizer", lambda *_, **__: (estimator, lambda _: RATE))
    steps = Steps()
    good, large, last = batches(3)
    steps(good)
    before = steps.arrays()
    large["y"][:] = 1e4
    metrics = steps(large)
    assert np.isfinite(metrics["loss"]) and metrics["finite_gradients"].all()
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, 1)
    assert_equal(steps.arrays(), before)
    assert steps(last)["skipped_in_a_row"] == 0
    assert steps.state.opt_state == 2


def test_skipped_steps_do_not_move_the_schedule_on():
    options = dict(schedule="cosine", warmup=dict(steps=50))
    steps, (good, bad, last) = Steps(**options), batches(3)
    bad["y"][0] = np.nan
    rates = [steps(batch)["learning_rate"] for batch in (good, bad, last)]
    assert rates[1] == rates[2] == pytest.approx(float(steps.schedule(1)))
    assert rates[0] == pytest.approx(float(steps.schedule(0)))


def test_a_parameter_that_would_overflow_keeps_its_value():
    """Loss and gradient are finite; the update leaves the range of float32 in the bias alone."""
    steps = Steps(learning_rate=1e38)
    batch = batches(1)[0]
    batch["x"] *= 1e-3
    batch["y"][:] = 50.0
    before = steps.arrays()[0]
    loss, grads = gradient(START, batch)
    largest = np.finfo(np.float32).max
    assert np.isfinite(loss) and abs(grads["bias"]) * 1e38 > largest
    assert np.abs(grads["kernel"] * 1e38).max() < largest
    metrics = steps(batch)
    assert np.isfinite(metrics["grad_norm"]) and metrics["skipped"] == 0
    after = steps.arrays()[0]
    assert after["bias"] == before["bias"]
    np.testing.assert_allclose(after["kernel"], -1e38 * grads["kernel"], rtol=1e-4)


def test_adam_moments_and_averages_are_those_of_optax():
    steps = Steps(name="adam", ema_decay=0.5, b1=0.9, b2=0.99)
    reference = optax.adam(RATE, b1=0.9, b2=0.99)
    params = {name: jnp.asarray(value, jnp.float32) for name, value in START.items()}
    state, average, weights = reference.init(params), None, 0.0
    for batch in batches(5):
        steps(batch)
        grads = jax.tree.map(jnp.float32, gradient(jax.tree.map(np.asarray, params), batch)[1])
        updates, state = reference.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        # Weights of half of the last, quarter of the one before, ..., normalized to 1.
        halved = average if average is None else jax.tree.map(lambda x: 0.5 * x, average)
        average = params if halved is None else jax.tree.map(jnp.add, halved, params)
        weights = 0.5 * weights + 1
    for name, value in params.items():
        np.testing.assert_allclose(steps.state.params[name], value, rtol=2e-5)
        np.testing.assert_allclose(steps.state.ema[name], average[name] / weights, rtol=2e-5)

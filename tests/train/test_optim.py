import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import InputError
from vit_jax.config import default, duration
from vit_jax.train import optim

STEPS = 30
rng = np.random.default_rng(0)
PARAMS = {
    "cls": rng.normal(size=(1, 1, 4)).astype(np.float32),
    "blocks": {
        "mlp": {
            "kernel": rng.normal(size=(2, 4, 8)).astype(np.float32),
            "bias": rng.normal(size=(2, 8)).astype(np.float32),
        }
    },
    "head": {
        "kernel": rng.normal(size=(8, 3)).astype(np.float32),
        "bias": rng.normal(size=(3,)).astype(np.float32),
    },
}
NAMES = ["cls", "blocks/mlp/kernel", "blocks/mlp/bias", "head/kernel", "head/bias"]


def flatten(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


TARGETS = {name: rng.normal(size=p.shape).astype(np.float32) for name, p in flatten(PARAMS).items()}


def make(params=PARAMS, steps=STEPS, **options):
    config = default().optimizer
    for name, value in (dict(schedule="constant", learning_rate=0.05) | options).items():
        config[name] = value
    return optim.create_optimizer(config, params, steps, batch_size=10, train_size=100)


def gradients(params):
    """Of a loss whose curvature differs from leaf to leaf: sum_i (i + 1) |p - target|^4 / 4."""
    scale = {name: i + 1 for i, name in enumerate(NAMES)}
    return jax.tree_util.tree_map_with_path(
        lambda path, p: gradient(jax.tree_util.keystr(path, simple=True, separator="/"), p, scale),
        params,
    )


def gradient(name, p, scale):
    return scale[name] * (p - TARGETS[name]) ** 3


def run(params=PARAMS, steps=STEPS, **options):
    tx, _ = make(params, steps, **options)
    params = jax.tree.map(jnp.asarray, params)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradients(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return flatten(params)


def run_torch(create, decay=0.0, clip=0.0, lr=0.05, schedule=lambda t: 1.0, factors=None):
    torch = pytest.importorskip("torch")
    params = {name: torch.tensor(p, requires_grad=True) for name, p in flatten(PARAMS).items()}
    factors = factors or {}
    groups = [
        dict(
            params=[p],
            lr=lr * factors.get(name, 1.0),
            weight_decay=decay if name.endswith("kernel") else 0.0,
        )
        for name, p in params.items()
    ]
    optimizer = create(torch, groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    scale = {name: i + 1 for i, name in enumerate(NAMES)}
    for _ in range(STEPS):
        with torch.no_grad():
            for name, p in params.items():
                p.grad = scale[name] * (p - torch.tensor(TARGETS[name])) ** 3
        if clip:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
        scheduler.step()
    return {name: p.detach().numpy() for name, p in params.items()}


def assert_close(actual, expected, rtol=2e-5, atol=2e-5):
    assert actual.keys() == expected.keys()
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol, atol, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_equals_torch(nesterov, decay):
    expected = run_torch(
        lambda torch, groups: torch.optim.SGD(groups, momentum=0.9, nesterov=nesterov),
        decay,
        lr=0.01,
        clip=1.0,
    )
    actual = run(
        name="sgd",
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=decay,
        learning_rate=0.01,
        clip_norm=1.0,
    )
    assert_close(actual, expected)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_with_decay_under_a_schedule_equal_torch(name):
    """Kernels decay by torch's convention of that name, other parameters not at all."""
    create = {"adam": "Adam", "adamw": "AdamW"}[name]
    expected = run_torch(
        lambda torch, groups: getattr(torch.optim, create)(groups, betas=(0.9, 0.99)),
        decay=0.3,
        schedule=lambda t: min(t / 10, 1) * (1 - max(t - 10, 0) / 20),
    )
    actual = run(name=name, b2=0.99, weight_decay=0.3, schedule="linear", warmup=duration(steps=10))
    assert_close(actual, expected)
    other = "adamw" if name == "adam" else "adam"
    different = run(
        name=other, b2=0.99, weight_decay=0.3, schedule="linear", warmup=duration(steps=10)
    )
    assert np.abs(different["head/kernel"] - expected["head/kernel"]).max() > 0.01


def test_multipliers_equal_torch_parameter_groups_and_the_first_match_counts():
    expected = run_torch(
        lambda torch, groups: torch.optim.AdamW(groups),
        decay=0.3,
        factors={"head/kernel": 3.0, "head/bias": 0.5, "cls": 0.1},
    )
    actual = run(
        name="adamw",
        weight_decay=0.3,
        multipliers=(("head/kernel", 3.0), ("head/.*", 0.5), ("c.*", 0.1)),
    )
    assert_close(actual, expected)


def test_lion_equals_its_paper():
    """Algorithm 2 of 2302.06675."""
    expected, lr, b1, b2, decay = {}, 0.01, 0.9, 0.99, 0.2
    for i, name in enumerate(NAMES):
        p, momentum = flatten(PARAMS)[name].astype(np.float64), 0.0
        for _ in range(STEPS):
            g = (i + 1) * (p - TARGETS[name]) ** 3
            update = np.sign(b1 * momentum + (1 - b1) * g)
            momentum = b2 * momentum + (1 - b2) * g
            p = p - lr * (update + decay * p * name.endswith("kernel"))
        expected[name] = p
    assert_close(run(name="lion", learning_rate=lr, b2=b2, weight_decay=decay), expected)


def test_adafactor_equals_its_paper():
    """Second moments factored into rows and columns (1804.04235), as in 2106.04560."""
    shape, lr, decay = (40, 33), 0.02, 0.1
    kernel = rng.normal(size=shape).astype(np.float32)
    bias = rng.normal(size=shape).astype(np.float32)
    params = {"fc": {"kernel": kernel, "bias": bias}}
    tx, _ = make(params, name="adafactor", learning_rate=lr, b2=0.8, weight_decay=decay)
    state = tx.init(params)
    row, column, full, momenta = 0.0, 0.0, 0.0, [0.0, 0.0]
    expected = [kernel.astype(np.float64), bias.astype(np.float64)]
    for t in range(1, 12):
        grads = rng.normal(size=(2, *shape)).astype(np.float32)
        updates, state = tx.update({"fc": {"kernel": grads[0], "bias": grads[1]}}, state, params)
        params = optax.apply_updates(params, updates)
        b2 = min(0.8, 1 - t**-0.8)
        row = b2 * row + (1 - b2) * np.mean(grads[0] ** 2, axis=1)
        column = b2 * column + (1 - b2) * np.mean(grads[0] ** 2, axis=0)
        full = b2 * full + (1 - b2) * grads[1] ** 2
        seconds = [np.outer(row, column) / np.mean(row), full]
        for i, (second, share) in enumerate(zip(seconds, (decay, 0))):
            momenta[i] = 0.9 * momenta[i] + 0.1 * grads[i] / np.sqrt(second)
            expected[i] -= lr * (momenta[i] + share * expected[i])
    np.testing.assert_allclose(params["fc"]["kernel"], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["fc"]["bias"], expected[1], rtol=1e-4, atol=1e-5)


def test_adafactor_never_factors_over_stacked_layers():
    params = {"blocks": {"fc": {"kernel": jnp.ones((40, 64, 96)), "bias": jnp.ones((40, 96))}}}
    tx, _ = make(params, name="adafactor")
    shapes = {name: leaf.shape for name, leaf in flatten(jax.eval_shape(tx.init, params)).items()}
    rows = [shape for name, shape in shapes.items() if name.endswith("v_row/blocks/fc/kernel")]
    full = [shape for name, shape in shapes.items() if name.endswith("v/blocks/fc/bias")]
    assert rows == [(40, 64)] and full == [(40, 96)]


def test_bfloat16_moments():
    for name in ("sgd", "adam", "adamw", "lion", "adafactor"):
        tx, _ = make(name=name, moment_dtype="bfloat16")
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(tx.init, PARAMS))]
        assert dtypes.count(jnp.bfloat16) == len(NAMES), name
    assert_close(run(moment_dtype="bfloat16"), run(), rtol=0.02, atol=0.02)


def test_frozen_parameters_stay_own_no_moments_and_do_not_count_in_the_norm():
    options = dict(name="adamw", weight_decay=0.1, clip_norm=0.5, freeze=("cls", "blocks/.*"))
    after = run(**options)
    for name, before in flatten(PARAMS).items():
        assert (np.array_equal(after[name], before)) == (not name.startswith("head")), name
    tx, _ = make(**options)
    moments = [name for name in flatten(tx.init(PARAMS)) if "mu/" in name or "nu/" in name]
    assert len(moments) == 4 and all("/head/" in name for name in moments)
    alone = run({"head": PARAMS["head"]}, **(options | dict(freeze=())))
    np.testing.assert_allclose(after["head/kernel"], alone["head/kernel"], rtol=1e-6)


def decay_of(name):
    """A weight decay that the optimizer takes: MoMo decays nothing."""
    return 0.0 if name.startswith("momo") else 0.1


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_paths_of_moments_end_in_the_path_of_their_parameter(name):
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    tx, _ = make(shapes, name=name, weight_decay=decay_of(name), clip_norm=1.0)
    state = flatten(jax.eval_shape(tx.init, shapes))
    for path, leaf in state.items():
        owner = [name for name in NAMES if path.endswith("/" + name)]
        assert owner or leaf.shape == (), path
        if name != "adafactor" and owner:
            assert leaf.shape == flatten(PARAMS)[owner[0]].shape


def test_sharded_parameters_give_the_same_update():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"head": {"kernel": jnp.linspace(-1, 1, 16 * 4).reshape(16, 4), "bias": jnp.ones(4)}}
    params["map_head"] = {"out": {"kernel": jnp.cos(jnp.arange(16.0 * 4).reshape(16, 4))}}
    sharded = jax.tree.map(
        lambda p: jax.device_put(
            p, NamedSharding(mesh, PartitionSpec("fsdp") if p.ndim == 2 else PartitionSpec())
        ),
        params,
    )
    for name in optim.OPTIMIZERS:
        decay = decay_of(name)
        tx, _ = make(params, name=name, weight_decay=decay, clip_norm=0.1, clip_adaptive=0.01)

        @jax.jit
        def step(params, tx=tx):
            grads = jax.tree.map(jnp.sin, params)
            return tx.update(grads, tx.init(params), params, value=jnp.float32(2.0))[0]

        assert_close(flatten(step(sharded)), flatten(step(params)), rtol=1e-5)


def rates(steps=100, **options):
    _, schedule = make(steps=steps, learning_rate=2.0, **options)
    return np.array([schedule(t) for t in range(steps + 1)])


def test_warmup_cosine_equals_optax():
    expected = optax.warmup_cosine_decay_schedule(0.0, 2.0, 20, 100, end_value=0.2)
    actual = rates(schedule="cosine", warmup=duration(steps=20), end_value=0.1)
    np.testing.assert_allclose(actual, [expected(t) for t in range(101)], rtol=1e-5, atol=1e-6)


def test_linear_equals_optax():
    expected = optax.schedules.warmup_constant_schedule(0.0, 2.0, 20)
    decay = optax.linear_schedule(2.0, 0.5, 80, 20)
    actual = rates(schedule="linear", warmup=duration(steps=20), end_value=0.25)
    np.testing.assert_allclose(
        actual, [expected(t) if t < 20 else decay(t) for t in range(101)], rtol=1e-5
    )


def test_rsqrt_falls_by_sqrt_2_after_its_timescale():
    actual = rates(schedule="rsqrt", warmup=duration(steps=10), rsqrt_timescale=30)
    np.testing.assert_allclose(actual[[0, 5, 10, 40]], [0, 1, 2, 2 / np.sqrt(2)], rtol=1e-6)
    assert actual[100] == pytest.approx(2 / np.sqrt(1 + 90 / 30), rel=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "rsqrt", "linear", "cosine"])
def test_cooldown_is_linear_to_the_end_value(schedule):
    options = dict(schedule=schedule, warmup=duration(steps=10), end_value=0.1)
    plain = rates(**options)
    cooled = rates(**options, cooldown=duration(steps=20))
    np.testing.assert_array_equal(cooled[:81], plain[:81])
    left = np.arange(20, -1, -1) / 20
    np.testing.assert_allclose(cooled[80:], 0.2 + (plain[80:] - 0.2) * left, rtol=1e-5)
    assert cooled[-1] == pytest.approx(0.2)


def test_durations_in_other_units_and_the_peak():
    # 100 examples an epoch, 10 a step.
    by_epochs = rates(schedule="linear", warmup=duration(epochs=2), cooldown=duration(examples=50))
    by_steps = rates(schedule="linear", warmup=duration(steps=20), cooldown=duration(steps=5))
    np.testing.assert_array_equal(by_epochs, by_steps)
    assert by_steps.argmax() == 20 and by_steps.max() == 2.0


def test_the_whole_run_may_be_warmup():
    np.testing.assert_allclose(rates(4, warmup=duration(steps=4)), [0, 0.5, 1, 1.5, 2])


@pytest.mark.parametrize(
    "options, same, text",
    [
        (
            dict(warmup=duration(epochs=4)),
            dict(warmup=duration(steps=3)),
            "the run has 30 steps: config.optimizer.warmup.epochs=4.0 is 40 steps and takes 3 of "
            "them",
        ),
        (
            dict(warmup=duration(steps=2), cooldown=duration(epochs=2.9)),
            dict(warmup=duration(steps=2), cooldown=duration(steps=3)),
            "the run has 30 steps: config.optimizer.cooldown.epochs=2.9 is 29 steps and takes 3 of "
            "them",
        ),
        (
            dict(warmup=duration(steps=24), cooldown=duration(epochs=0.6)),
            dict(warmup=duration(steps=24), cooldown=duration(steps=6)),
            "",
        ),
    ],
)
def test_what_is_longer_than_the_run_takes_a_tenth_of_it(options, same, text):
    np.testing.assert_array_equal(rates(30, **options), rates(30, **same))
    config = default().optimizer
    for name, value in options.items():
        config[name] = value
    assert optim.shortened(config, 30, batch_size=10, train_size=100) == text


def test_after_the_horizon_the_rate_is_constant():
    """The schedule that a lengthened run had, then its last value or a given one."""
    options = dict(schedule="cosine", warmup=duration(steps=10), end_value=0.25)
    before = rates(60, **options)
    longer = rates(100, **options, horizon=duration(steps=60))
    np.testing.assert_array_equal(longer[:60], before[:60])
    np.testing.assert_allclose(longer[60:], 0.5, rtol=1e-6)
    given = rates(100, **options, horizon=duration(epochs=6), tail_value=0.1)
    np.testing.assert_array_equal(given[:60], before[:60])
    np.testing.assert_allclose(given[60:], 0.2, rtol=1e-6)


def test_after_the_horizon_a_linear_cooldown_to_the_end_value():
    options = dict(schedule="rsqrt", rsqrt_timescale=20, end_value=0.05)
    before = rates(60, **options)
    longer = rates(100, **options, horizon=duration(steps=60), tail="linear")
    np.testing.assert_array_equal(longer[:60], before[:60])
    expected = optax.linear_schedule(2 / np.sqrt(1 + 60 / 20), 0.1, 40)
    np.testing.assert_allclose(longer[60:], [expected(t) for t in range(41)], rtol=1e-5)


@pytest.mark.parametrize("value", [None, 0.5])
def test_after_the_horizon_a_warm_restart(value):
    """As optax.sgdr_schedule, whose second cycle has no warm-up."""
    cycles = [
        dict(init_value=0.0, peak_value=2.0, warmup_steps=10, decay_steps=60),
        dict(init_value=0.0, peak_value=2.0 * (value or 1), warmup_steps=0, decay_steps=40),
    ]
    expected = optax.sgdr_schedule([dict(cycle, end_value=0.0) for cycle in cycles])
    options = dict(horizon=duration(steps=60), tail="restart", tail_value=value)
    found = rates(100, schedule="cosine", warmup=duration(steps=10), **options)
    np.testing.assert_allclose(found, [expected(t) for t in range(101)], rtol=1e-5, atol=1e-6)


def test_a_horizon_beyond_the_end_cuts_the_schedule_off():
    long = rates(100, schedule="linear")
    np.testing.assert_array_equal(
        rates(40, schedule="linear", horizon=duration(steps=100)), long[:41]
    )


def test_ema_is_the_weighted_mean_without_the_initial_value():
    values = rng.normal(size=(50, 3))
    ema = {"p": jnp.full(3, 1e3)}
    for step, value in enumerate(values):
        ema = optim.update_ema(ema, {"p": jnp.asarray(value)}, 0.9, step)
    weights = 0.9 ** np.arange(50)[::-1]
    expected = (weights[:, None] * values).sum(0) / weights.sum()
    np.testing.assert_allclose(ema["p"], expected, rtol=1e-4, atol=1e-4)


def test_ema_of_a_short_run_is_the_plain_mean_and_of_a_long_one_constant():
    ema = jnp.zeros(())
    for step in range(20):
        ema = jax.jit(optim.update_ema, static_argnums=2)(ema, jnp.float32(step), 0.9999, step)
    assert float(ema) == pytest.approx(9.5, rel=1e-2)
    late = optim.update_ema(jnp.zeros(()), jnp.ones(()), 0.9999, 1_000_000)
    assert float(late) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(name="adamv"), "did you mean 'adam"),
        (dict(schedule="cosin"), "did you mean 'cosine'"),
        (dict(moment_dtype="bf16"), "did you mean 'bfloat16'"),
        (dict(learning_rate=-1.0), "learning_rate is -1.0"),
        (dict(b2=1.0), "b2 is 1.0"),
        (dict(weight_decay=float("nan")), "weight_decay is nan"),
        (dict(rsqrt_timescale=0), "rsqrt_timescale is 0"),
        (dict(name="sgd", momentum=0.0, nesterov=True), "nesterov needs"),
        (
            dict(warmup=duration(steps=9), horizon=duration(steps=8)),
            "warmup.steps=9 is 9 steps: longer than config.optimizer.horizon, 8 steps",
        ),
        (dict(schedule="cosine", horizon=duration(steps=8)), "set config.optimizer.tail_value"),
        (dict(tail="cosine"), "unknown config.optimizer.tail 'cosine'"),
        (dict(warmup=duration(steps=1, epochs=1)), "optimizer.warmup sets"),
        (dict(freeze=("had/kernel",)), "did you mean 'head/kernel'"),
        (dict(freeze=("head",)), "'head' matches no parameter.*'head/\\.\\*'"),
        (dict(freeze=(".*",)), "nothing is left to train"),
        (dict(freeze=("(",)), "optimizer.freeze"),
        (dict(multipliers=(("nothing/.*", 0.1),)), "'nothing/.*' matches no parameter"),
        (dict(multipliers=((".*", 0.1), ("head/.*", 1.0))), "put it first"),
        (dict(multipliers=(("head/.*", 0.0),)), "freeze"),
        (dict(multipliers=("head/.*",)), "pattern, factor"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)

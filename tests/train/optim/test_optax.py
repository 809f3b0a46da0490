"""Optimizers by name beside Optax, torch and big_vision, with stacked layers taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.optim.stepping import create, descend, nested, run
from vit_jax import InputError
from vit_jax.train.optim import OPTIMIZERS

SHAPES = {
    "blocks/fc/kernel": (2, 5, 4),
    "blocks/fc/bias": (2, 4),
    "head/kernel": (4, 3),
    "head/bias": (3,),
}
STEPS = 6


def draw(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def apart(flat):
    """Each layer's array by itself, in the order of layers."""
    parts = {}
    for path, array in flat.items():
        stacked = path.startswith("blocks/")
        for i, part in enumerate(array if stacked else [array]):
            parts[f"{path}:{i}" if stacked else path] = part
    return parts


def kernels(parts):
    return {path: "kernel" in path for path in parts}


# Name -> our options, and Optax's optimizer given a mask of kernels.
DECAY = 0.1
OURS_AND_OPTAX = {
    "nadamw": ({}, lambda mask: optax.nadamw(0.1, weight_decay=DECAY, mask=mask)),
    "radam(threshold=4.5)": (
        {},
        lambda mask: optax.chain(
            optax.scale_by_radam(threshold=4.5),
            optax.add_decayed_weights(DECAY, mask),
            optax.scale(-0.1),
        ),
    ),
    "adopt": (
        dict(b2=0.99, eps=1e-6),
        lambda mask: optax.chain(
            optax.contrib.scale_by_adopt(b2=0.99),
            optax.add_decayed_weights(DECAY, mask),
            optax.scale(-0.1),
        ),
    ),
    "ademamix(alpha=3.0, b3=0.98)": (
        {},
        lambda mask: optax.contrib.ademamix(0.1, b3=0.98, alpha=3.0, weight_decay=DECAY, mask=mask),
    ),
    "lamb": (dict(eps=1e-6), lambda mask: optax.lamb(0.1, weight_decay=DECAY, mask=mask)),
    "lars(trust_coefficient=0.3)": (
        dict(nesterov=True),
        lambda mask: optax.lars(
            0.1,
            weight_decay=DECAY,
            weight_decay_mask=mask,
            trust_coefficient=0.3,
            trust_ratio_mask=mask,
            nesterov=True,
        ),
    ),
    "acprop": (
        dict(eps=1e-4),
        lambda mask: optax.chain(
            optax.contrib.scale_by_acprop(eps=1e-4),
            optax.add_decayed_weights(DECAY, mask),
            optax.scale(-0.1),
        ),
    ),
    "simplified_ademamix(alpha=2.0)": (
        dict(b1=0.99, b2=0.95),
        lambda mask: optax.contrib.simplified_ademamix(
            0.1, alpha=2.0, weight_decay=DECAY, mask=mask
        ),
    ),
    "madgrad": (
        {},
        lambda mask: optax.chain(
            optax.add_decayed_weights(DECAY, mask), optax.contrib.madgrad(0.1)
        ),
    ),
    "cocob(alpha=50.0)": (
        dict(learning_rate=1.0),
        lambda mask: optax.contrib.cocob(alpha=50.0, weight_decay=DECAY, mask=mask),
    ),
    "dog(init_step=1e-3)": (
        dict(learning_rate=1.0),
        lambda mask: optax.contrib.dog(
            init_step=("heuristic", 1e-3), weight_decay=DECAY, mask=mask
        ),
    ),
    "dowg(init_estim_sq_dist=0.01)": (
        dict(learning_rate=1.0),
        lambda mask: optax.contrib.dowg(init_estim_sq_dist=0.01, weight_decay=DECAY, mask=mask),
    ),
    "dadapt_adamw(estim_lr0=1e-2)": (
        dict(learning_rate=1.0, weight_decay=0.0),
        lambda mask: optax.contrib.dadapt_adamw(estim_lr0=1e-2),
    ),
    "momo(lower_bound=0.1)": (
        dict(learning_rate=1.0, weight_decay=0.0),
        lambda mask: optax.contrib.momo(lower_bound=0.1),
    ),
    "momo_adam": (
        dict(learning_rate=0.01, weight_decay=0.0),
        lambda mask: optax.contrib.momo_adam(0.01),
    ),
    "prodigy(estim_lr0=1e-2)": (
        dict(learning_rate=1.0, weight_decay=0.0),
        lambda mask: optax.contrib.prodigy(1.0, estim_lr0=1e-2),
    ),
}


@pytest.mark.parametrize("name", OURS_AND_OPTAX)
def test_steps_equal_optax_on_unstacked_parameters(name):
    options, theirs = OURS_AND_OPTAX[name]
    start, gradients = draw(0), [draw(step) for step in range(1, STEPS)]
    after = apart(run(start, gradients, name=name, **(dict(weight_decay=DECAY) | options)))
    tx = theirs(kernels(after))
    expected = descend(tx, jax.tree.map(jnp.asarray, apart(start)), map(apart, gradients))
    for path, p in expected.items():
        np.testing.assert_allclose(after[path], p, rtol=1e-5, atol=1e-6, err_msg=path)
        assert np.abs(p - apart(start)[path]).max() > 1e-3


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw"])
def test_estimated_rates_decay_kernels_alone_as_optax_decays_everything(name):
    only = {path: shape for path, shape in SHAPES.items() if "kernel" in path}
    start, gradients = draw(0, only), [draw(step, only) for step in range(1, STEPS)]
    theirs = dict(prodigy=optax.contrib.prodigy, dadapt_adamw=optax.contrib.dadapt_adamw)
    tx = theirs[name](0.5, estim_lr0=1e-2, weight_decay=0.3)
    expected = descend(tx, jax.tree.map(jnp.asarray, start), gradients)
    after = run(
        start, gradients, name=f"{name}(estim_lr0=1e-2)", learning_rate=0.5, weight_decay=0.3
    )
    for path in only:
        np.testing.assert_allclose(after[path], expected[path], rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_warm_up_from_zero_spoils_no_optimizer(name):
    """The first step has the rate 0; by it Prodigy's estimate was 0 / 0."""
    decay = 0.0 if name.startswith("momo") else 0.1
    start, gradients = draw(0), [draw(step) for step in range(1, 9)]
    options = dict(warmup=dict(steps=3), weight_decay=decay, learning_rate=0.5)
    seen = []
    tx = create(nested(start), name=name, **options)
    descend(tx, nested(start), map(nested, gradients), lambda *state: seen.append(state))
    for params, state in seen:
        scalars = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]
        assert all(map(np.isfinite, scalars)), scalars
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    before, after = jax.tree.leaves(seen[0][0]), jax.tree.leaves(seen[-1][0])
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_equals_torch(momentum):
    torch = pytest.importorskip("torch")
    start, gradients = draw(0), [draw(step) for step in range(1, STEPS)]
    tensors = {path: torch.tensor(p, requires_grad=True) for path, p in start.items()}
    groups = [
        dict(params=[tensor], weight_decay=0.1 if "kernel" in path else 0.0)
        for path, tensor in tensors.items()
    ]
    optimizer = torch.optim.RMSprop(groups, lr=0.1, alpha=0.9, momentum=momentum)
    for gradient in gradients:
        for path, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[path])
        optimizer.step()
    name = f"rmsprop(decay=0.9, momentum={momentum})"
    after = run(start, gradients, name=name, weight_decay=0.1)
    for path, tensor in tensors.items():
        np.testing.assert_allclose(after[path], tensor.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_adafactor_with_options_equals_big_visions():
    """scale_by_adafactor of google-research/big_vision, optax.py, for every layer's matrix."""
    shapes = {"blocks/fc/kernel": (2, 12, 10), "head/kernel": (9, 8)}
    start, gradients = draw(0, shapes), [draw(step, shapes) for step in range(1, 12)]
    cap, threshold, rate = 0.6, 0.5, 0.7
    tx = optax.chain(
        optax.scale_by_factored_rms(
            factored=True,
            decay_rate=rate,
            step_offset=0,
            min_dim_size_to_factor=10,
            epsilon=1e-20,
            decay_rate_fn=lambda i, power: jnp.minimum(cap, 1.0 - (i + 1.0) ** -power),
        ),
        optax.clip_by_block_rms(threshold),
        optax.ema(0.8, debias=False, accumulator_dtype=jnp.bfloat16),
        optax.scale(-0.1),
    )
    expected = descend(tx, jax.tree.map(jnp.asarray, apart(start)), map(apart, gradients))
    name = (
        f"adafactor(decay_rate={rate}, clipping_threshold={threshold}, "
        "min_dim_size_to_factor=10, epsilon=1e-20)"
    )
    after = run(start, gradients, name=name, b1=0.8, b2=cap, moment_dtype="bfloat16")
    for path, p in expected.items():
        np.testing.assert_allclose(apart(after)[path], p, rtol=1e-5, atol=1e-5, err_msg=path)
    state = jax.eval_shape(create(nested(start), name=name).init, nested(start))
    sizes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert (2, 12) in sizes and (9, 8) in sizes  # the first is factored, the second is too small


@pytest.mark.parametrize(
    "name, message",
    [
        ("adafactor(beta2_cap=0.9)", "unknown option of config.optimizer.name=adafactor"),
        ("adafactor(clipping_threshold=0.0)", "clipping_threshold is 0.0; it must be above 0"),
        ("lars(trust_coefficient='a')", "trust_coefficient is 'a'; it must be float"),
        ("prodigy(estim_lr0=None)", "estim_lr0 is None"),
        ("sophia", "unknown config.optimizer.name 'sophia'"),
        ("dog(init_step=0.0)", "init_step is 0.0; it must be above 0"),
        ("cocob(beta=1)", "unknown option of config.optimizer.name=cocob"),
    ],
)
def test_wrong_options_are_refused(name, message):
    with pytest.raises(InputError, match=message) as error:
        create(nested(draw(0)), name=name)
    assert "\n" not in str(error.value)

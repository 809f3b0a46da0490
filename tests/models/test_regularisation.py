"""Dropout and stochastic depth: where, how much, and whose randomness."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from vit_jax.models import layers, merge, split
from vit_jax.models.attention import self_attention

TOKENS, WIDTH, HIDDEN, HEADS = 7, 12, 20, 3


def keys_of(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def draws(jaxpr, batch):
    """Shapes per example of all random draws; those of a scan body count once a layer."""
    shapes = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "random_bits":
            assert eqn.outvars[0].aval.shape[0] == batch
            shapes.append(eqn.outvars[0].aval.shape[1:])
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(eqn.params):
            shapes += draws(inner, batch) * repeats
    return shapes


@pytest.mark.parametrize(
    "options, once, per_block",
    [
        (
            dict(dropout=0.1),
            [(TOKENS, WIDTH)],  # after the position embedding
            # After attention's output, the hidden layer and the MLP's output; not after qkv.
            [(TOKENS, WIDTH), (TOKENS, HIDDEN), (TOKENS, WIDTH)],
        ),
        (dict(attention_dropout=0.1), [], [(HEADS, TOKENS, TOKENS)]),
        (dict(stochastic_depth=0.1), [], [(), ()]),
        (dict(dropout=0.1, head="map", pre_logits=9), [(6, WIDTH)], None),  # no more in the head
        (dict(), [], []),
    ],
    ids=str,
)
def test_random_numbers_are_drawn_where_the_paper_drops_out(vit, options, once, per_block):
    model = vit.model(**options)
    images = vit.images(model, batch=5)
    jaxpr = jax.make_jaxpr(lambda keys: model(images, keys=keys))(keys_of(5))
    if per_block is None:
        per_block = [(6, WIDTH), (6, HIDDEN), (6, WIDTH)]
    assert sorted(draws(jaxpr.jaxpr, 5)) == sorted(once + 3 * per_block)
    evaluation = jax.make_jaxpr(lambda images: model(images))(images)
    assert draws(evaluation.jaxpr, 5) == []


def pattern(shape):
    """What stands in for a random mask: another factor for every element of an example."""
    return 1 + 0.5 * np.cos(np.arange(np.prod(shape[1:]))).reshape(shape[1:])


@pytest.mark.parametrize(
    "options",
    [
        dict(dropout=0.1),
        dict(attention_dropout=0.1),
        dict(dropout=0.1, attention_dropout=0.1, registers=2, layer_scale=0.5),
        dict(dropout=0.1, head="map"),
    ],
    ids=str,
)
def test_dropout_sits_where_the_paper_puts_it(vit, options, monkeypatch):
    def fake_dropout(x, rate, keys, *, store=True):
        del store  # it changes what is kept for the backward pass
        return x * pattern(x.shape).astype(x.dtype) if rate and keys is not None else x

    def expected_dropout(site, x):
        rate = options.get("attention_dropout" if site == "weights" else "dropout")
        return x * pattern(x.shape) if rate else x

    for module in (layers, self_attention):
        monkeypatch.setattr(module, "dropout", fake_dropout)
    model = vit.model(**options)
    images = vit.images(model)
    logits, out = vit.apply(model, images, keys_of(2))
    expected_logits, expected = vit.reference(model, images, expected_dropout)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    for name in expected:
        if name.endswith("output"):
            np.testing.assert_allclose(out[name], expected[name], rtol=1e-4, atol=1e-5)


def test_an_example_draws_the_same_in_any_batch(vit):
    model = vit.model(dropout=0.4, attention_dropout=0.3, stochastic_depth=0.5)
    images, keys = vit.images(model, batch=6), keys_of(6)
    graphdef, params = split(model)
    apply = jax.jit(lambda images, keys: merge(graphdef, params)(images, keys=keys))
    together = apply(images, keys)
    assert not np.allclose(together, apply(images, None))
    order = np.array([5, 0, 3])
    np.testing.assert_allclose(apply(images[order], keys[order]), together[order], 1e-4, 1e-5)


def test_every_draw_has_a_key_of_its_own(vit, monkeypatch):
    drawn, derived_from = [], []

    def record(name, keys):
        original = getattr(jax.random, name)

        def recording(key, *args):
            jax.debug.callback(
                lambda data: keys.append(tuple(np.asarray(data))), jax.random.key_data(key)
            )
            return original(key, *args)

        monkeypatch.setattr(jax.random, name, recording)

    record("bernoulli", drawn)
    record("fold_in", derived_from)
    model = vit.model(dropout=0.1, attention_dropout=0.1, stochastic_depth=0.1)
    model(vit.images(model), keys=keys_of(2))
    jax.effects_barrier()
    # Embedding; in each block attention's weights and output, hidden layer, MLP, two branches.
    assert len(drawn) == 2 * (1 + 3 * 6)
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(derived_from)


def test_stochastic_depth_drops_whole_branches_at_growing_rates(vit):
    """With stochastic depth alone, each branch of an example is either 0 or y / (1 - rate)."""
    size, rate = 3000, 0.6
    model = vit.model(stochastic_depth=rate, depth=4, gelu="erf")
    images = np.repeat(vit.images(model, batch=1), size, axis=0)
    _, out = vit.apply(model, images, keys_of(size))
    steps = [out["embedding"], *(out[f"block{i:02}/output"] for i in range(4))]
    for i in range(4):
        unchanged = np.asarray((steps[i + 1] == steps[i]).all((1, 2))).mean()
        both = (rate * i / 3) ** 2  # attention and MLP are dropped independently
        assert abs(unchanged - both) <= 4 * (both * (1 - both) / size) ** 0.5


def test_a_kept_branch_is_scaled_up(vit):
    rate, size = 0.4, 64
    model = vit.model(stochastic_depth=rate, depth=2)
    image = vit.images(model, batch=1)
    images = np.repeat(image, size, axis=0)
    _, out = vit.apply(model, images, keys_of(size))
    actual = np.asarray(out["block01/output"])
    # Block 0 is never dropped, so an example is in one of four states of block 1.
    seen = set()
    for kept in itertools.product((0, 1), repeat=2):
        factors = {"attention": [1, kept[0] / (1 - rate)], "mlp": [1, kept[1] / (1 - rate)]}

        def drop(site, x, factors=factors):
            return x * factors[site].pop(0) if site in factors else x

        _, expected = vit.reference(model, image, drop)
        matches = np.abs(actual - expected["block01/output"]).max((1, 2)) < 1e-4
        seen |= set(np.flatnonzero(matches))
        assert matches.any()
    assert seen == set(range(size))


def test_expectation_of_a_dropped_branch_is_the_branch():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2)), jnp.float32)
    many = jnp.repeat(x, 20_000, axis=0)
    for drop in (layers.drop_path, layers.dropout):
        y = drop(many, 0.25 if drop is layers.dropout else jnp.float32(0.25), keys_of(20_000))
        deviation = np.abs(x[0]) * (0.25 / 0.75 / 20_000) ** 0.5
        assert (np.abs(y.mean(0) - x[0]) < 4.5 * deviation).all()

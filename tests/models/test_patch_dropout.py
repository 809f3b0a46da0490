"""Patch dropout: which tokens stay, and that the blocks see those tokens alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax.config import default
from vit_jax.errors import InputError
from vit_jax.models import flops, layers, merge, model_config, split
from vit_jax.models.positions.bias import PositionBias
from vit_jax.models.positions.rotary import RotaryEmbedding, rotation
from vit_jax.tasks import create_task

KEPT = [0, 2, 3]  # of the grid's six patches


def keys_of(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def jitted(model, images, keys, **options):
    graphdef, params = split(model)
    return jax.jit(lambda p, x, k: merge(graphdef, p)(x, keys=k, **options))(params, images, keys)


def test_without_a_rate_or_in_evaluation_nothing_is_dropped(vit):
    model = vit.model(depth=1)
    images = vit.images(model, batch=4)
    plain = jitted(model, images, None)
    dropping = vit.model(depth=1, patch_dropout=0.5)
    np.testing.assert_array_equal(jitted(dropping, images, None), plain)
    off = vit.model(depth=1, patch_dropout=0.0)
    np.testing.assert_array_equal(jitted(off, images, keys_of(4)), plain)
    assert not np.allclose(jitted(dropping, images, keys_of(4)), plain)


def test_every_example_keeps_as_many_patches_and_each_patch_alike():
    count, prefix, patches, kept = 6000, 2, 7, 3
    found = np.asarray(layers.kept_tokens(keys_of(count), prefix, patches, kept))
    assert found.shape == (count, prefix + kept)
    assert (found[:, :prefix] == [0, 1]).all() and (np.diff(found, axis=1) > 0).all()
    times = np.bincount(found[:, prefix:].ravel() - prefix, minlength=patches)
    share = kept / patches
    assert times.sum() == count * kept
    assert (abs(times / count - share) < 5 * (share * (1 - share) / count) ** 0.5).all()


@pytest.mark.parametrize(
    "rate, kept", [(0.0, 196), (0.5, 98), (0.75, 49), (0.9, 19), (0.99, 1), (0.999, 1)]
)
def test_the_number_of_kept_patches(rate, kept):
    assert model_config("ViT-B/16", patch_dropout=rate).kept_patches == kept


def test_a_product_just_below_a_whole_number_counts_as_it():
    assert model_config("ViT-B/16", image_size=160, patch_dropout=0.9).kept_patches == 10


class FewRotated(RotaryEmbedding):
    """The rotation of some patches, from that of all."""

    def __init__(self, whole, places):
        self.whole, self.places = whole, places

    def __call__(self, keys=None):
        found = self.whole(keys)
        places = np.array(self.places)
        return dataclasses.replace(
            found, cos=found.cos[..., places, :, :], sin=found.sin[..., places, :, :]
        )


class FewBiased(PositionBias):
    """The bias among some tokens, from that among all."""

    def __init__(self, whole, places):
        self.whole, self.places = whole, places

    def __call__(self):
        return self.whole()[:, :, np.array(self.places)][..., np.array(self.places)]


@pytest.mark.parametrize(
    "options",
    [
        dict(registers=2, posemb="sincos2d", norm_pre=True, rotary="indexed"),
        dict(head="map", layer_scale=0.3, position_bias="mlp(hidden=7, shared=True)"),
        dict(head="gap", class_token=False, posemb="learned2d", block="parallel"),
        dict(position_bias="table(shared=True)"),
    ],
    ids=str,
)
def test_the_blocks_see_the_kept_tokens_alone(vit, options, monkeypatch):
    """As the model's own blocks and head on those tokens, without any patch dropout."""
    options = dict(width=16, num_heads=2, depth=1) | options
    model = vit.model(patch_dropout=0.5, **options)
    prefix = model.config.prefix_tokens
    places = [*range(prefix), *(prefix + patch for patch in KEPT)]
    monkeypatch.setattr(
        "vit_jax.models.vit.kept_tokens",
        lambda keys, *_: jnp.broadcast_to(jnp.array(places), (len(keys), len(places))),
    )
    images = vit.images(model, batch=3)
    logits, out = jitted(model, images, keys_of(3), return_intermediates=True)
    assert out["block00/output"].shape == (3, len(places), 16)
    assert out["block00/attention"].shape[-2:] == (len(places),) * 2
    few = vit.model(**options)
    whole = few._sequence(few.embedding(images), None)
    np.testing.assert_allclose(out["embedding"], whole[:, np.array(places)], 1e-4, 1e-5)
    if options.get("rotary"):
        few.rotary = FewRotated(few.rotary, tuple(places))
    if options.get("position_bias"):
        few.position_bias = FewBiased(few.position_bias, tuple(places))
    x, _ = few._encode(jnp.asarray(out["embedding"]), None, False)
    encoded = few.norm(x)
    expected = few._classify(few._pool(encoded, None).astype(jnp.float32), encoded)
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=1e-5)


def test_mixed_rotation_in_every_layer_and_a_scale_for_each_example(vit):
    """A permutation of all patches is the model itself, where every patch turns by its place."""
    angles = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 3)), jnp.float32)
    whole = rotation(angles, 1, "half")
    kept = jnp.array([[0, 2, 5], [0, 1, 4]])
    found = whole.among(kept)
    scaled = rotation(angles * jnp.array([1.0, 3.0])[:, None, None, None], 1, "half").among(kept)
    for example in range(2):
        np.testing.assert_array_equal(found.cos[example], whole.cos[kept[example]])
    np.testing.assert_allclose(scaled.sin[1, 1], np.sin(3.0 * angles[0]), rtol=1e-5)
    model = vit.model(width=16, num_heads=2, depth=1, rotary="mixed", patch_dropout=0.5)
    assert np.isfinite(jitted(model, vit.images(model), keys_of(2))).all()


def test_the_cost_of_training_counts_kept_patches():
    rate = dict(width=32, depth=3, mlp_dim=48, num_heads=2, num_classes=5, image_size=(64, 32))
    config = model_config("ViT-Ti/4", **rate, patch_dropout=0.75)
    full = dataclasses.replace(config, patch_dropout=0.0)
    tokens, width = 1 + 128 // 4, 32
    blocks = 3 * (tokens * (4 * width**2 + 2 * width * 48) + 2 * tokens**2 * width)
    assert flops.training_macs(config) == 128 * 48 * width + blocks + width * 5
    assert flops.macs(config) == flops.macs(full) == flops.training_macs(full)
    assert flops.train_flops(config) == 6 * flops.training_macs(config)


def test_gradients_reach_the_kept_positions_alone(vit, monkeypatch):
    monkeypatch.setattr(
        "vit_jax.models.vit.kept_tokens",
        lambda keys, *_: jnp.broadcast_to(jnp.array([0, 1, 4]), (len(keys), 3)),
    )
    model = vit.model(depth=1, patch_dropout=0.5)
    graphdef, params = split(model)
    images = vit.images(model)

    @jax.jit
    def gradient(params):
        def loss(params):
            return (nnx.merge(graphdef, params)(images, keys=keys_of(2)) ** 2).sum()

        return jax.grad(loss)(params)["posemb"]["embedding"]

    reached = np.asarray(jnp.abs(gradient(params)[0]).sum(-1) > 0)
    np.testing.assert_array_equal(np.flatnonzero(reached), [0, 1, 4])


@pytest.mark.parametrize(
    "options, match",
    [
        (dict(posemb="relative"), "posemb than 'relative'"),
        (dict(posemb_where="layers"), "model.posemb_where 'stem'"),
        (dict(attention_kind="axial", head="gap"), "model.attention_kind 'full'"),
        (dict(naflex=16, patch_size=4), "model.naflex 0"),
        (dict(patch_dropout=1.0), "patch_dropout is 1.0"),
    ],
    ids=str,
)
def test_parts_that_need_a_whole_grid_are_refused(options, match):
    make = functools.partial(model_config, "ViT-Ti/16", patch_dropout=0.5)
    with pytest.raises(InputError, match=match):
        make(**options)


def test_masked_patch_prediction_needs_all_patches():
    config = default()
    config.task = "masked"
    with pytest.raises(InputError, match="no model.patch_dropout"):
        create_task(config).build_model(
            model_config("ViT-Ti/16", num_classes=0, patch_dropout=0.5), nnx.Rngs(0)
        )

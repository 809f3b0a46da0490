"""Position embeddings: the fixed ones' formula, what relative ones see, what learns.

Learned ones are in `vit.reference`, which test_vit.py compares with.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from vit_jax.errors import InputError
from vit_jax.models import merge, split
from vit_jax.models.positions.embedding import RelativePositionEmbedding, sincos_2d


def test_sincos_2d_is_the_formula():
    width, rows, columns = 16, 3, 5
    table = sincos_2d((rows, columns), width).reshape(rows, columns, 4, width // 4)
    for y, x, k in [(0, 0, 0), (2, 4, 0), (1, 3, 2), (2, 0, 3)]:
        w = 10_000 ** (-k / (width // 4 - 1))
        expected = [math.sin(x * w), math.cos(x * w), math.sin(y * w), math.cos(y * w)]
        np.testing.assert_allclose(table[y, x, :, k], expected, atol=1e-6)


@pytest.mark.parametrize("head", ["token", "gap"])
def test_sincos_2d_is_added_to_patches_alone(head):
    options = dict(num_classes=3, image_size=(16, 24), width=32, depth=1, num_heads=2, head=head)
    fixed, none = (
        vit_jax.create_model("ViT-Ti/8", posemb=kind, **options) for kind in ("sincos2d", "none")
    )
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    added = [model(images, return_intermediates=True)[1]["embedding"] for model in (fixed, none)]
    difference = np.asarray(added[0] - added[1])
    np.testing.assert_allclose(difference[:, -6:], np.stack([sincos_2d((2, 3), 32)] * 2), atol=1e-5)
    np.testing.assert_array_equal(difference[:, :-6], 0)


def test_a_width_that_is_no_multiple_of_four_is_refused():
    with pytest.raises(InputError, match="divisible by 4"):
        vit_jax.create_model("ViT-Ti/8", posemb="sincos2d", width=30, num_heads=2)


def test_attention_without_positions_does_not_see_their_order(vit):
    """Patches in another order give the same mean; relative positions tell the difference."""
    images = vit.images(vit.model())
    upside_down = np.concatenate([images[:, 4:], images[:, :4]], axis=1)  # rows of patches swapped

    def logits(**options):
        model = vit.model(head="gap", **options)
        return [vit.apply(model, batch)[0] for batch in (images, upside_down)]

    np.testing.assert_allclose(*logits(posemb="none"), rtol=1e-5, atol=1e-6)
    first, second = logits(posemb="relative")
    assert np.abs(first - second).max() > 1e-2


def test_relative_bias_depends_on_the_offset_alone():
    """One query everywhere: along every diagonal the same; nothing for tokens before patches."""
    embedding = RelativePositionEmbedding((3, 4), 2, 8, rngs=nnx.Rngs(0))
    query = np.tile(np.random.default_rng(0).normal(size=(1, 1, 2, 4)), (1, 14, 1, 1))
    bias = np.asarray(embedding.bias(jnp.asarray(query, jnp.float32)))
    assert bias.shape == (1, 2, 14, 14)
    assert not bias[:, :, :2].any() and not bias[:, :, :, :2].any()
    patches = bias[0, :, 2:, 2:]
    for offset in range(-11, 12):
        diagonal = np.diagonal(patches, offset, 1, 2)
        assert np.ptp(diagonal, axis=1).max() < 1e-7
    assert len(np.unique(patches[0].round(7))) == 23


def test_positions_in_layers_learn_with_and_without_recomputation(vit):
    for options in (dict(posemb="relative"), dict(posemb="learned2d", posemb_where="layers")):
        gradients = []
        for remat in ("none", "full"):
            model = vit.model(remat=remat, **options)
            graphdef, params = split(model)
            images = vit.images(model)
            loss = lambda params: (merge(graphdef, params)(images) ** 2).sum()  # noqa: B023, E731
            gradients.append(jax.jit(jax.grad(loss))(params))
        posemb = gradients[0].get("posemb") or gradients[0]["blocks"]["posemb"]
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(posemb))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), *gradients)


@pytest.mark.parametrize("posemb", ["learned", "learned2d", "relative"])
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_the_initial_spread_is_that_of_the_config(posemb, std):
    options = dict(width=128, depth=1, mlp_dim=16, num_heads=2, image_size=64)
    model = vit_jax.create_model("ViT-Ti/4", posemb=posemb, posemb_std=std, **options)
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model.posemb, nnx.Param)))
    values = np.concatenate([np.ravel(leaf) for leaf in leaves])
    assert values.size > 1000 and values.std() == pytest.approx(std, rel=0.05)

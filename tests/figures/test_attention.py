"""Numbers about attention against closed forms."""

import itertools

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vit_jax.figures import attention
from vit_jax.models.positions.embedding import sincos_2d

GRID, SIZE = (3, 4), (48, 128)  # patches of 16 x 32 pixels
PATCHES, PREFIX = 12, 2


def embed(patches, prefix=PREFIX):
    """Attention among patches (P, P) as that of all tokens, half of it to tokens before."""
    tokens = PATCHES + prefix
    weights = np.full((tokens, tokens), 0.5 / max(prefix, 1))
    weights[prefix:, prefix:] = patches * (0.5 if prefix else 1.0)
    return weights


def mean_distance(patches, prefix=PREFIX):
    distances = attention.patch_distances(GRID, SIZE)
    return float(attention.attention_distance(embed(patches, prefix), distances, prefix))


def test_uniform_attention_looks_at_the_mean_distance():
    centres = list(itertools.product(16 * np.arange(3), 32 * np.arange(4)))
    pairs = [np.hypot(a[0] - b[0], a[1] - b[1]) for a in centres for b in centres]
    uniform = np.full((PATCHES, PATCHES), 1 / PATCHES)
    assert mean_distance(uniform) == pytest.approx(np.mean(pairs))
    assert mean_distance(uniform, prefix=0) == pytest.approx(np.mean(pairs))


def test_attention_to_oneself_and_to_the_neighbour():
    assert mean_distance(np.eye(PATCHES)) == 0
    right = np.arange(PATCHES).reshape(GRID)
    right = np.roll(right, -1, axis=1)  # the last column looks at the first
    expected = (3 * 32 + 3 * 32) / 4  # three of four look 32 pixels far, one 96
    assert mean_distance(np.eye(PATCHES)[right.ravel()]) == pytest.approx(expected)


def test_heads_layers_and_images_keep_their_axes():
    stack = np.stack([embed(np.eye(PATCHES)), embed(np.full((PATCHES,) * 2, 1 / PATCHES))])
    distances = attention.patch_distances(GRID, SIZE)
    found = attention.attention_distance(stack[None, :, None], distances, PREFIX)
    assert found.shape == (1, 2, 1) and found[0, 0, 0] == 0 < found[0, 1, 0]


def test_rollout_of_attention_to_oneself_is_the_identity():
    weights = np.broadcast_to(np.eye(5), (3, 2, 5, 5))  # layers, heads
    np.testing.assert_allclose(attention.rollout(weights), np.eye(5), atol=1e-6)


def test_rollout_of_uniform_attention():
    """One layer mixes (U + I) / 2 where U^2 = U, so L layers keep 2^-L of the identity."""
    uniform = np.full((4, 5, 5), 1 / 5)
    expected = 2.0**-3 * np.eye(5) + (1 - 2.0**-3) / 5
    np.testing.assert_allclose(attention.rollout([uniform] * 3 * np.ones((3, 1, 1, 1))), expected,
                               atol=1e-6)  # fmt: skip


def test_rollout_multiplies_later_layers_from_the_left():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(4), (2, 3, 4))  # layers, heads, queries
    first, second = (weights[i].mean(0) / 2 + np.eye(4) / 2 for i in range(2))
    found = attention.rollout(weights)
    np.testing.assert_allclose(found, second @ first, atol=1e-6)
    np.testing.assert_allclose(np.sum(found, axis=-1), 1, atol=1e-6)


def test_rollout_maps_are_the_class_tokens_row_or_the_patches_mean():
    flow = np.arange(14.0 * 14).reshape(14, 14)
    seen = attention.rollout_map(flow, GRID, PREFIX, class_token=True)
    np.testing.assert_array_equal(seen, np.arange(2, 14).reshape(GRID))
    seen = attention.rollout_map(flow, GRID, PREFIX, class_token=False)
    np.testing.assert_array_equal(seen, flow[2:, 2:].mean(0).reshape(GRID))


def test_filters_components_are_scikit_learns():
    kernel = np.random.default_rng(0).normal(size=(3, 2, 3, 40))
    components, shares = attention.filter_components(kernel, count=5)
    theirs = PCA(5).fit(kernel.reshape(18, 40).T)
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_)
    cosines = np.sum(components.reshape(5, 18) * theirs.components_, axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1)
    assert components.shape == (5, 3, 2, 3) and all(
        c.flat[np.abs(c).argmax()] > 0 for c in components
    )


def test_sines_and_cosines_are_similar_where_patches_are_close():
    """sin a sin b + cos a cos b = cos(a - b): similarity depends on the offset alone."""
    found = attention.position_similarity(sincos_2d((6, 7), 64), (6, 7))
    frequencies = 10_000.0 ** -np.linspace(0, 1, 16)
    expected = np.mean([np.cos(2 * frequencies), np.cos(3 * frequencies)])
    assert found[1, 1, 3, 4] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(np.diag(found.reshape(42, 42)), 1)

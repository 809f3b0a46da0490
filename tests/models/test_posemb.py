"""Fixed position embeddings against their formula."""

import math

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.errors import InputError
from vit_jax.models.posemb import sincos_2d


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

"""Images of any size in one batch: each gets what it would get alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax import data, models, weights
from vit_jax.data.ops.naflex import Naflex
from vit_jax.errors import InputError
from vit_jax.models.naflex import Patches, model_inputs, pack, resize_positions, unpack
from vit_jax.weights.resample import resample_posemb

PATCH, LENGTH = 4, 20
GRIDS = [(4, 5), (2, 3), (1, 9), (4, 4)]


def build(**options):
    """A small model with random parameters, as weights."""
    shape = dict(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=PATCH, image_size=16)
    config = models.model_config("ViT-Ti/16", **shape | dict(num_classes=3) | options)
    _, params = models.split(models.build_model(config, nnx.Rngs(0)))
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: draw(0, 0.3, leaf.shape).astype(np.float32), params)
    name, stored = models.identify(config)
    return weights.Weights(
        name=name, options=stored, params=params, pp="resize(16)|value_range(-1, 1)"
    )


def run(found, images):
    graphdef, _ = models.abstract(lambda rngs: models.build_model(found.config, rngs))
    return np.asarray(models.merge(graphdef, found.params)(images))


def batch():
    """Normalised images of several sizes, and the same as packed patches."""
    rng = np.random.default_rng(1)
    pixels = [
        rng.integers(0, 256, (rows * PATCH, columns * PATCH, 3), np.uint8)
        for rows, columns in GRIDS
    ]
    packed = []
    for (rows, columns), image in zip(GRIDS, pixels):
        patches = image.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2)
        patches = patches.reshape(-1, PATCH, PATCH, 3)
        # Padding that must not be seen.
        more = rng.integers(0, 256, (LENGTH - len(patches), PATCH, PATCH, 3), np.uint8)
        packed.append(pack(np.concatenate([patches, more]), (rows, columns)))
    return [image.astype(np.float32) / 127.5 - 1 for image in pixels], np.stack(packed)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(head="gap", registers=2),
        dict(head="map", class_token=True, pool_prefix=True),
        dict(head="map"),
        dict(head="token_gap", posemb_class_slot=False),
        dict(posemb="none", head="gap"),
        dict(naflex_resize="bicubic"),
    ],
    ids=str,
)
def test_each_image_gives_what_a_model_of_its_size_gives(options):
    images, packed = batch()
    plain = build(**options)
    naflex = dataclasses.replace(plain, options=dict(plain.options, naflex=LENGTH))
    inputs = model_inputs(jnp.asarray(packed), naflex.config, (0.5,) * 3, (0.5,) * 3)
    together = run(naflex, inputs)
    method = options.get("naflex_resize", "bilinear") + "_antialias"
    for image, logits in zip(images, together):
        alone = weights.refit(plain, image_size=image.shape[:2], resample=method)
        np.testing.assert_allclose(run(alone, image[None])[0], logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_positions_are_resized_as_on_the_host(method):
    table = np.random.default_rng(0).normal(size=(1, 16 * 16, 8)).astype(np.float32)
    grids = np.array([[16, 16], [7, 36], [1, 1], [31, 8]], np.int32)
    found = resize_positions(jnp.asarray(table[0]), (16, 16), jnp.asarray(grids), 256, method)
    for (rows, columns), positions in zip(grids, found):
        expected = resample_posemb(
            table, (16, 16), (rows, columns), has_class_slot=False, method=f"{method}_antialias"
        )
        np.testing.assert_allclose(positions[: rows * columns], expected[0], atol=1e-5)


def test_unpacking_is_the_inverse_of_packing():
    patches = np.random.default_rng(0).integers(0, 256, (300, 2, 2, 3), np.uint8)
    found = unpack(jnp.asarray(pack(patches, (1, 300))[None]))
    np.testing.assert_array_equal(found.values[0], patches)
    np.testing.assert_array_equal(found.grid, [[1, 300]])
    assert found.mask.all()


def test_gradients_do_not_see_the_padding():
    _, packed = batch()
    naflex = build(naflex=LENGTH)
    inputs = model_inputs(jnp.asarray(packed), naflex.config, (0.5,) * 3, (0.5,) * 3)

    def loss(values):
        return run_traced(naflex, dataclasses.replace(inputs, values=values)).sum()

    def run_traced(found, images):
        graphdef, _ = models.abstract(lambda rngs: models.build_model(found.config, rngs))
        return models.merge(graphdef, found.params)(images)

    grad = np.abs(jax.grad(loss)(inputs.values)).max(axis=(2, 3, 4))
    mask = np.asarray(inputs.mask)
    assert (grad[~mask] == 0).all() and (grad[mask] > 0).all()


@pytest.mark.parametrize(
    "size, patches, expected",
    # transformers' get_image_size_for_max_num_patches, in patches.
    [((480, 640), 256, (14, 18)), ((224, 224), 256, (16, 16)), ((30, 3000), 256, (2, 128)),
     ((1, 1), 256, (7, 7)), ((1080, 1920), 1024, (24, 42)), ((5000, 10), 256, (256, 1)),
     ((333, 500), 576, (19, 29))],
)  # fmt: skip
def test_the_grid_is_the_largest_that_fits(size, patches, expected):
    op = Naflex(patches, 16)
    rows, columns = op.grid(size)
    assert rows * columns <= patches
    assert (rows, columns) == expected


def test_the_operation_cuts_what_pillow_resizes():
    image_module = pytest.importorskip("PIL.Image")
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    pp = data.parse("decode|naflex(20, 4)|value_range(-1, 1)")
    assert pp.image_size == (81, 4)
    packed = pp.batched(image[None], None)
    rows, columns = Naflex(20, 4).grid((50, 90))
    resized = image_module.fromarray(image).resize((columns * 4, rows * 4), image_module.BILINEAR)
    patches = np.asarray(resized).reshape(rows, 4, columns, 4, 3).swapaxes(1, 2)
    found = unpack(jnp.asarray(packed))
    np.testing.assert_array_equal(found.grid[0], (rows, columns))
    np.testing.assert_array_equal(found.values[0, : rows * columns], patches.reshape(-1, 4, 4, 3))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(posemb="sincos2d"), "needs model.posemb 'learned' or 'none'"),
        (dict(rotary="centred"), "needs model.rotary 'none'"),
        (dict(patch_size=(4, 2)), "needs square patches"),
        (dict(position_bias="table"), "needs model.position_bias 'none'"),
    ],
    ids=str,
)
def test_parts_that_need_one_grid_are_refused(options, message):
    with pytest.raises(InputError) as error:
        build(naflex=LENGTH, **options)
    assert message in str(error.value)


def test_images_of_the_other_kind_are_refused():
    with pytest.raises(InputError, match="the model takes Patches"):
        run(build(naflex=LENGTH), np.zeros((1, 16, 16, 3), np.float32))
    patches = Patches(jnp.zeros((1, 7, 4, 4, 3)), jnp.ones((1, 2), jnp.int32))
    with pytest.raises(InputError, match="the model takes an array of images, got Patches"):
        run(build(), patches)
    with pytest.raises(InputError, match=r"patches of shape \(batch, 20, 4, 4, 3\)"):
        run(build(naflex=LENGTH), patches)
    with pytest.raises(InputError, match="must come last"):
        data.parse("decode|naflex(20, 4)|flip_lr|value_range(-1, 1)")

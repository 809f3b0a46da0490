import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import InputError
from vit_jax.config import default
from vit_jax.tasks import mixup

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(16, 6, 10, 3)).astype(np.float32)
TARGETS = np.eye(16, dtype=np.float32)  # the class is the position: shares can be read off


def create(**options):
    config = default().mixup
    config.update(options)
    return mixup.create_mix(config)


MIXES = {
    "mixup": create(alpha=0.3),
    "cutmix": create(cutmix_alpha=1.0),
    "both": create(alpha=0.3, cutmix_alpha=1.0),
}
# Compiled once for all tests: a beta distribution costs seconds of compilation.
WHOLE = {name: jax.jit(mix) for name, mix in MIXES.items()}


def shares(targets):
    """Own share, and that of the predecessor, of every example."""
    return np.diag(targets), targets[np.arange(16), np.arange(16) - 1]


def test_mixup_mixes_every_example_with_its_predecessor():
    images, targets = WHOLE["mixup"](IMAGES, TARGETS, key=jax.random.key(1))
    own, other = shares(np.asarray(targets))
    ratio = own[0]
    assert 0.5 <= ratio < 1
    np.testing.assert_allclose(own, ratio)
    np.testing.assert_allclose(other, 1 - ratio, rtol=1e-5)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    expected = ratio * IMAGES + (1 - ratio) * IMAGES[np.arange(16) - 1]
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-6)


def test_ratio_is_the_larger_half_of_a_beta_distribution():
    stats = pytest.importorskip("scipy.stats")
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def ratio(key, alpha):
        return mixup.mixup(IMAGES[:2], TARGETS[:2, :2], alpha=alpha, key=key)[1][0, 0]

    for alpha in (1.0, 0.5):
        beta = stats.beta(alpha, alpha)
        folded = stats.kstest(ratio(keys, alpha), lambda r, beta=beta: 2 * beta.cdf(r) - 1)
        assert folded.pvalue > 1e-3


def test_cutmix_pastes_one_box_and_counts_its_pixels():
    sizes = set()
    for seed in range(20):
        images, targets = WHOLE["cutmix"](IMAGES, TARGETS, key=jax.random.key(seed))
        pasted = np.asarray(images) != IMAGES
        assert (pasted == pasted[:1, :, :, :1]).all()
        box = pasted[0, :, :, 0]
        rows, columns = box.any(1), box.any(0)
        np.testing.assert_array_equal(box, rows[:, None] & columns[None])
        assert (np.abs(np.diff(rows.astype(int))).sum() <= 2) and box.sum() <= 60
        np.testing.assert_array_equal(
            images, np.where(box[..., None], np.roll(IMAGES, 1, 0), IMAGES)
        )
        own, other = shares(np.asarray(targets))
        np.testing.assert_allclose(other, box.mean(), rtol=1e-5)
        np.testing.assert_allclose(own, 1 - box.mean(), rtol=1e-5)
        sizes.add(box.sum())
    assert len(sizes) > 5


def test_cutmix_area_away_from_the_border_is_the_drawn_share():
    """Mean covered length of an interval of length s * n with a uniform centre in n pixels."""
    size, side = 1000, 0.4
    keys = jax.random.split(jax.random.key(0), 2000)
    spans = jax.vmap(lambda key: mixup._span(key, side, size))(keys)
    covered = np.asarray(spans.sum(1))
    assert covered.max() == side * size
    assert covered.mean() / size == pytest.approx(side - side**2 / 4, rel=0.01)


def test_both_take_turns():
    kinds = []
    for seed in range(40):
        images, _ = WHOLE["both"](IMAGES, TARGETS, key=jax.random.key(seed))
        kinds.append(np.isin(images, IMAGES).all())
    assert 10 < sum(kinds) < 30


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_pmap_equals_the_global_batch(name):
    assert jax.device_count() == 8
    key = jax.random.key(3)
    mapped = jax.pmap(
        lambda images, targets, key: MIXES[name](images, targets, key=key, axis_name="batch"),
        axis_name="batch",
        in_axes=(0, 0, None),
    )
    images, targets = mapped(IMAGES.reshape(8, 2, 6, 10, 3), TARGETS.reshape(8, 2, 16), key)
    expected = WHOLE[name](IMAGES, TARGETS, key=key)
    np.testing.assert_allclose(images.reshape(IMAGES.shape), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(targets.reshape(16, 16), expected[1], rtol=1e-5)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_sharded_jit_equals_one_device_and_moves_only_neighbours(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    images, targets = jax.device_put((IMAGES, TARGETS), sharding)
    key = jax.random.key(4)
    mix = jax.jit(MIXES[name], out_shardings=sharding).lower(images, targets, key=key).compile()
    expected = WHOLE[name](IMAGES, TARGETS, key=key)
    for actual, whole in zip(mix(images, targets, key=key), expected, strict=True):
        np.testing.assert_allclose(actual, whole, rtol=1e-5, atol=1e-6)
    assert "collective-permute" in mix.as_text() and "all-gather" not in mix.as_text()


def test_dtype_stays():
    for mix in MIXES.values():
        half = jax.ShapeDtypeStruct(IMAGES.shape, jnp.bfloat16)
        images, targets = jax.eval_shape(mix, half, TARGETS, key=jax.random.key(0))
        assert images.dtype == jnp.bfloat16 and targets.dtype == jnp.float32


def test_off_and_wrong_options():
    assert create() is None
    with pytest.raises(InputError, match="cutmix_alpha is -1"):
        create(cutmix_alpha=-1.0)

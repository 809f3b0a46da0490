import numpy as np
import pytest

from vit_jax.data import order
from vit_jax.data.batches.examples import TrainingPlan
from vit_jax.data.sources.source import ArraySource


def test_threefry_is_the_generator_of_jax():
    from jax.extend.random import threefry_2x32

    key = np.array([0xDEADBEEF, 42], np.uint32)
    counts = np.arange(64, dtype=np.uint32)
    expected = np.asarray(threefry_2x32(tuple(key), counts))
    ours = order.threefry2x32((key[:1], key[1:]), (counts[:32], counts[32:]))
    np.testing.assert_array_equal(np.concatenate(ours), expected)


def test_threefry_on_jax_arrays():
    import jax.numpy as jnp

    words = np.arange(8, dtype=np.uint32)
    ours = order.threefry2x32((words, words + 1), (words + 2, words + 3))
    key, counter = [(jnp.asarray(words + i), jnp.asarray(words + i + 1)) for i in (0, 2)]
    on_device = order.threefry2x32(key, counter)
    np.testing.assert_array_equal(np.asarray(on_device), ours)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 97, 1437, 4096, 60_000])
def test_permutation_hits_every_example_once(size):
    for epoch in (0, 1, 1000):
        found = order.permutation(np.arange(size), epoch, seed=3, size=size)
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_permutation_depends_on_seed_and_epoch_alone():
    positions = np.arange(1000)
    first = order.permutation(positions, 5, seed=1, size=1000)
    assert (first != order.permutation(positions, 6, seed=1, size=1000)).mean() > 0.9
    assert (first != order.permutation(positions, 5, seed=2, size=1000)).mean() > 0.9
    one_by_one = [order.permutation(np.array([p]), 5, seed=1, size=1000)[0] for p in (0, 500, 999)]
    np.testing.assert_array_equal(one_by_one, first[[0, 500, 999]])


@pytest.mark.parametrize("size", [5, 12, 100])
def test_every_position_gets_every_example_equally_often(size):
    # Chi-squared of each position's counts over many epochs, against its 1e-4 quantile.
    from scipy.stats import chi2

    epochs = 200 * size
    grid = np.broadcast_to(np.arange(size), (epochs, size))
    found = order.permutation(grid, np.arange(epochs)[:, None], seed=0, size=size)
    for position in (0, size // 2, size - 1):
        counts = np.bincount(found[:, position], minlength=size)
        statistic = ((counts - 200) ** 2 / 200).sum()
        assert statistic < chi2.ppf(1 - 1e-4, size - 1)


def test_neighbours_are_scattered():
    # Differences of neighbours in a random permutation: no serial correlation.
    found = order.permutation(np.arange(50_000), 0, seed=0, size=50_000)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(50_000), found)[0, 1]) < 0.02


def test_stream_covers_each_epoch_once_and_batches_span_epochs():
    epoch, index = order.examples(np.arange(30), seed=0, size=10)
    np.testing.assert_array_equal(epoch, np.repeat([0, 1, 2], 10))
    for e in range(3):
        np.testing.assert_array_equal(np.sort(index[epoch == e]), np.arange(10))


def test_stream_without_shuffling_is_the_source():
    epoch, index = order.examples(np.arange(7, 13), seed=0, size=10, shuffle=False)
    np.testing.assert_array_equal(index, [7, 8, 9, 0, 1, 2])
    np.testing.assert_array_equal(epoch, [0, 0, 0, 1, 1, 1])


def test_a_far_start_computes_no_more_positions(monkeypatch):
    """Step 1,000,000 of 1.2M images costs what step 0 does: nothing before it is computed."""
    computed = []
    permutation = order.permutation

    def counting(position, *args, **options):
        computed.append(np.size(position))
        return permutation(position, *args, **options)

    monkeypatch.setattr(order, "permutation", counting)
    size = 1_281_167
    source = ArraySource(
        name="many", split="train", size=size, label_names=["a"], image_size=(1, 1),
        images=np.zeros((size, 1, 1, 1), np.uint8), targets=np.zeros(size, int),
    )  # fmt: skip
    for batch_size in (128, 4096):
        for step in (0, 1_000_000):
            plan = TrainingPlan(source, batch_size, np.arange(batch_size), 1, 0, True)
            assert len(plan(step).index) == batch_size
    assert computed == [4096] * 4


def test_words_are_uniform_and_belong_to_the_example():
    epoch, index = np.zeros(20_000, np.int64), np.arange(20_000)
    words = order.words(epoch, index, seed=9, count=2)
    assert words.shape == (20_000, 2, 2)
    np.testing.assert_allclose((words / 2.0**32).mean(0), 0.5, atol=0.01)
    bits = (words.reshape(-1, 4)[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1
    np.testing.assert_allclose(bits.mean(0), 0.5, atol=0.02)
    alone = order.words(np.array([0]), np.array([77]), seed=9, count=2)
    np.testing.assert_array_equal(alone[0], words[77])
    assert (order.words(epoch + 1, index, seed=9, count=2) != words).mean() > 0.99


@pytest.mark.parametrize("seed", [0, 2**40 + 1, 2**63])
def test_large_seeds(seed):
    found = order.permutation(np.arange(10), 0, seed=seed, size=10)
    np.testing.assert_array_equal(np.sort(found), np.arange(10))


def test_replacement_is_an_example():
    found = [order.replacement(2, i, 0, seed=0, size=7) for i in range(100)]
    assert set(found) == set(range(7))

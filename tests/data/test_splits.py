import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.data.sources import splits
from vit_jax.errors import InputError

LABELS = np.repeat(np.arange(4), [100, 60, 30, 10])  # sorted by class, as folders are


def select(split, sizes=None):
    sizes = sizes or dict(train=200, test=50)
    return splits.select(split, sizes, lambda name: LABELS[: sizes[name]], "folder:x")


def rows(split):
    return np.concatenate([rows for _, rows in select(split)])


@pytest.mark.parametrize(
    "split, count",
    [
        ("train", 200),
        ("train[:80%]", 160),
        ("train[-20%:]", 40),
        ("train[10:30]", 20),
        ("train[:-50]", 150),
        ("train[:10%]+train[90%:]", 40),
        ("train+test", 250),
        ("all", 250),
        ("train[:0.5%]", 1),
    ],
)
def test_sizes(split, count):
    assert len(rows(split)) == count


@pytest.mark.parametrize("size", [7, 200, 1797])
def test_slices_round_as_tfds_does(size):
    tfds = pytest.importorskip("tensorflow_datasets")
    template = tfds.core.ShardedFileTemplate(
        data_dir="/d", dataset_name="x", filetype_suffix="tfrecord", split="train"
    )
    info = tfds.core.SplitInfo(
        name="train", shard_lengths=[size], num_bytes=0, filename_template=template
    )
    theirs = tfds.core.splits.SplitDict([info])
    for split in ("train[:33%]", "train[33%:67%]", "train[-15%:]", "train[3:]", "train[:-2]"):
        ours = splits.select(split, dict(train=size), lambda _: np.zeros(size, int), "x")
        assert sum(len(found) for _, found in ours) == theirs[split].num_examples


def test_disjoint_slices_together_are_everything():
    low, high = rows("train[:80%]"), rows("train[80%:]")
    np.testing.assert_array_equal(np.sort(np.r_[low, high]), np.arange(200))


def test_slices_hold_every_class_in_proportion():
    counts = np.bincount(LABELS[rows("train[80%:]")], minlength=4)
    assert np.all(np.abs(counts - [20, 12, 6, 2]) <= 1)


def test_a_whole_split_keeps_its_order():
    np.testing.assert_array_equal(rows("train"), np.arange(200))


def test_balanced_order_is_a_permutation_for_multi_hot_labels():
    found = splits.balanced_order(np.eye(4, dtype=np.uint8)[LABELS])
    np.testing.assert_array_equal(np.sort(found), np.arange(200))


@pytest.mark.parametrize(
    "split, message",
    [
        ("tain", "did you mean 'train'"),
        ("train[:80", "bad slice"),
        ("train[:120%]", "beyond 100%"),
        ("train[:201]", "beyond the 200 examples"),
        ("train[50%:50%]", "no examples"),
        ("", "bad slice"),
        ("train[a:b]", "bad slice"),
    ],
)
def test_wrong_splits(split, message):
    with pytest.raises(InputError, match=message) as error:
        select(split)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "train, test, shared",
    [
        ("train", "train[80%:]", 359),
        ("train[:80%]", "train[80%:]", 0),
        ("train[:50%]", "train[40%:60%]", 180),
        ("all", "train", 1797),
    ],
)
def test_shared_examples_are_counted(train, test, shared):
    found = open_source("digits", train).shared(open_source("digits", test))
    assert abs(found - shared) <= 1 and bool(found) == bool(shared)


def test_shared_files_of_folders_and_mixtures(folder):
    spec = f"folder:{folder}"
    train, test = open_source(spec, "train[:80%]"), open_source(spec, "train[50%:]")
    files = set(train.fetch(np.arange(train.size))) & set(test.fetch(np.arange(test.size)))
    assert train.shared(test) == len(files) == 6
    assert open_source("digits", "train").shared(test) == 0
    mixed = open_source(f"mix:{spec}*1+digits*1", "train")
    assert mixed.shared(test) == 10 and mixed.shared(open_source("digits", "train")) == 1797

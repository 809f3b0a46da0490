import itertools

import numpy as np
import pytest

from vit_jax.data import eval_batches, open_source, parse, train_batches
from vit_jax.data.sources import mixture
from vit_jax.errors import InputError


@pytest.fixture
def spec(folder):
    return f"mix:digits*0.3+folder:{folder}*0.7"


def stream(source, start, stop, seed=0):
    return source.order(np.arange(start, stop), seed=seed, shuffle=True)


def test_parse():
    assert mixture.parse("digits*0.3+folder:/a+b*c/d*.7") == [
        ("digits", 0.3), ("folder:/a+b*c/d", 0.7)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, message",
    [
        ("digits", "write e.g."),
        ("digits*", "write e.g."),
        ("digits*1+", "write e.g."),
        ("digits*1+digits", "write e.g."),
        ("digits*0+digits*1", "must be positive"),
        ("mix:digits*1*1", "cannot hold another"),
        ("digits*0.0001+digits*1", "below a thousandth"),
        ("digit*1", "did you mean 'digits'"),
    ],
)
def test_wrong_mixtures(text, message):
    with pytest.raises(InputError, match=message):
        open_source(f"mix:{text}", "train")


def test_classes_of_the_same_name_are_one(folder, tmp_path):
    source = open_source(f"mix:digits*1+folder:{folder}*1", "train")
    assert source.label_names == [*"0123456789", "cat", "dog"]
    assert source.size == 1797 + 20
    same = open_source("mix:digits*1+digits*2", "train")
    assert same.num_classes == 10


def test_each_block_holds_the_weights(spec):
    source = open_source(spec, "train")
    for block in (0, 7, 10**6):
        _, index = stream(source, 1000 * block, 1000 * (block + 1))
        assert (index < 1797).sum() == 300


def test_each_component_runs_through_its_own_epochs(spec):
    source = open_source(spec, "train")
    epoch, index = stream(source, 0, 6000)
    digits = index < 1797
    first = index[digits & (epoch == 0)]
    assert len(first) == 1797 == len(set(first))
    for number in range(200):
        pets = index[~digits & (epoch == number)]
        np.testing.assert_array_equal(np.sort(pets), np.arange(1797, 1817))


def test_any_place_can_be_started_from(spec):
    source = open_source(spec, "train")
    whole, part = stream(source, 0, 5000), stream(source, 3456, 4000)
    for a, b in zip(whole, part):
        np.testing.assert_array_equal(a[3456:4000], b)
    other = stream(source, 0, 5000, seed=1)
    assert (other[1] != whole[1]).mean() > 0.5


@pytest.mark.parametrize("multi_label", [False, True])
def test_images_and_labels_are_the_components(spec, folder, multi_label):
    source = open_source(spec, "train", multi_label=multi_label)
    parts = [
        open_source("digits", "train", multi_label=multi_label),
        open_source(f"folder:{folder}", "train", multi_label=multi_label),
    ]
    offsets = [0, 10]
    pp = parse("resize(16)")
    expected = []
    for part, offset in zip(parts, offsets):
        batches = list(eval_batches(part, pp, batch_size=100))
        images, labels = (
            np.concatenate([b[name][b["mask"]] for b in batches]) for name in ("image", "label")
        )
        if multi_label:
            wide = np.zeros((len(labels), 12), np.uint8)
            wide[:, offset : offset + labels.shape[1]] = labels
            expected.append((images, wide))
        else:
            expected.append((images, labels + offset))
    images, labels = (np.concatenate(values) for values in zip(*expected))
    batches = train_batches(source, pp, batch_size=50, seed=0)
    for batch in itertools.islice(batches, 3):
        difference = batch["image"].astype(int) - images[batch["index"]]
        assert np.abs(difference).max() <= 1
        np.testing.assert_array_equal(batch["label"], labels[batch["index"]])
    batches.close()
    assert source.describe(1797).endswith("cat/0.jpg")


def test_evaluation_of_a_mixture_sees_everything_once(folder):
    source = open_source(f"mix:folder:{folder}*1+folder:{folder}*1", "train[:50%]")
    batches = list(eval_batches(source, parse("resize(8)"), batch_size=8))
    index = np.concatenate([batch["index"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(index, np.arange(20))


def test_classes_that_share_a_name_cannot_be_matched(tmp_path):
    names = dict(a=["crane", "crane"], b=["crane", "lamp"])
    for file, labels in names.items():
        np.savez(
            tmp_path / f"{file}.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 1],
            label_names=labels,
        )  # fmt: skip
    with pytest.raises(InputError, match="share a name"):
        open_source(f"mix:npz:{tmp_path}/a.npz*1+npz:{tmp_path}/b.npz*1", "train")

"""Label rules on examples whose answer is plain, and in data sets that tfds has prepared."""

import numpy as np
import pytest

from vit_jax.data import eval_batches, open_source, parse, read_labels
from vit_jax.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
from vit_jax.data.sources import labels  # noqa: E402  needs TensorFlow


def make(path, name, version, features, splits):
    """Writes a prepared data set; `splits` are lists of examples by name."""
    folder = path / name / version
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=version, data_dir=str(folder), module_name=""
    )
    features = tfds.features.FeaturesDict(features)
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=500, file_format="tfrecord")
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return str(path)


def picture(side=4, channels=3):
    return tfds.features.Image(shape=(side, side, channels), encoding_format="png")


@pytest.mark.parametrize(
    "distance, label",
    [(0.1, 0), (8.0, 0), (8.01, 1), (8.7, 2), (9.5, 3), (9.6, 4), (10.0, 4), (10.1, 5), (99, 5)],
)
def test_clevr_distance_is_the_interval_of_the_closest_object(distance, label):
    coordinates = np.array([[200, 100, distance + 1], [3, 5, distance]], np.float32)
    assert labels.closest_object_distance(coordinates.ravel()).numpy() == label


@pytest.mark.parametrize(
    "distance, label", [(-1, 0), (8, 0), (8.1, 1), (20, 1), (20.1, 2), (99, 2)]
)
def test_kitti_distance_is_that_of_the_closest_vehicle(distance, label):
    ahead = [distance + 50, distance, 0.5, distance + 1]  # the pedestrian is closer
    locations = np.array([[4, 2, z] for z in ahead], np.float32)
    types = np.array([0, 2, 3, 1])
    assert labels.closest_vehicle_distance(types, locations.ravel()).numpy() == label
    assert labels.closest_vehicle_distance(types[2:3], locations[2]).numpy() == 3  # no vehicle


def test_clevr_counts_from_three():
    assert [labels.count_all(np.zeros(n, int)).numpy() for n in range(3, 11)] == list(range(8))


@pytest.mark.parametrize("classes", [32, 40])
def test_bins_are_equal_but_for_rounding(classes):
    found = [int(labels.binned(np.array([i]), classes, 16)) for i in range(classes)]
    assert found == [int(np.floor(i / (classes / 16))) for i in range(classes)]
    assert set(np.bincount(found)) <= {classes // 16, -(-classes // 16)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A few images of CLEVR, dSprites and smallNORB in their tfds form."""
    path = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    objects = tfds.features.Sequence(
        dict(
            size=tfds.features.ClassLabel(names=["small", "large"]),
            pixel_coords=tfds.features.Tensor(shape=(3,), dtype=np.float32),
        )
    )
    clevr = [
        dict(
            image=rng.integers(0, 256, (4, 4, 3), np.uint8),
            file_name=f"CLEVR_{n}.png",
            objects=dict(
                size=[i % 2 for i in range(n)],
                pixel_coords=[[1, 2, 8.2 + n + i] for i in range(n)],
            ),
        )
        for n in range(3, 11)
    ]
    kinds = dict(image=picture(), file_name=tfds.features.Text(), objects=objects)
    make(path, "clevr", "3.1.0", kinds, dict(train=clevr))
    kinds = dict(
        image=picture(channels=1),
        label_orientation=tfds.features.ClassLabel(num_classes=40),
        label_x_position=tfds.features.ClassLabel(num_classes=32),
    )
    dsprites = [
        dict(
            image=rng.integers(0, 2, (4, 4, 1), np.uint8),
            label_orientation=i,
            label_x_position=i % 32,
        )
        for i in range(40)
    ]
    make(path, "dsprites", "2.0.0", kinds, dict(train=dsprites))
    kinds = dict(
        image=picture(channels=1),
        image2=picture(channels=1),
        label_azimuth=tfds.features.ClassLabel(num_classes=18),
        label_elevation=tfds.features.ClassLabel(num_classes=9),
    )
    norb = [
        dict(
            image=np.full((4, 4, 1), i, np.uint8),
            image2=np.zeros((4, 4, 1), np.uint8),
            label_azimuth=i % 18,
            label_elevation=i % 9,
        )
        for i in range(40)
    ]
    return make(path, "smallnorb", "2.0.0", kinds, dict(train=norb[:10], test=norb))


def batch(spec, split, data_dir, pp=""):
    source = open_source(spec, split, data_dir=data_dir)
    (found,) = eval_batches(source, parse(pp), batch_size=source.size)
    np.testing.assert_array_equal(read_labels(source), found["label"])
    return source, found


def test_labels_by_rule(data_dir):
    source, found = batch("tfds:clevr:3.*.*?label=count_all", "train", data_dir)
    assert found["label"].tolist() == list(range(8)) and source.label_names[0] == "3"
    source, found = batch("tfds:clevr?label=closest_object_distance", "train", data_dir)
    assert found["label"].tolist() == [5] * 8 and source.num_classes == 6
    assert source.file_names()[:2] == ["CLEVR_3.png", "CLEVR_4.png"]


def test_dsprites_in_bins_and_in_black_and_white(data_dir):
    spec = "tfds:dsprites:2.*.*?label=label_orientation&bins=16"
    source, found = batch(spec, "train", data_dir, "multiply(255)")
    assert found["label"].tolist() == [int(i / 2.5) for i in range(40)]
    assert source.label_names[:3] == ["0 to 2", "3 to 4", "5 to 7"]
    assert set(np.unique(found["image"])) == {0, 255}
    _, found = batch("tfds:dsprites?label=label_x_position&bins=16", "train", data_dir)
    assert found["label"].tolist() == [i % 32 // 2 for i in range(40)]


def test_a_feature_as_label_and_the_first_image(data_dir):
    source, found = batch("tfds:smallnorb:2.*.*?label=label_azimuth", "test[50%:]", data_dir)
    assert source.num_classes == 18 and len(found["label"]) == 20
    assert found["label"].tolist() == [i % 18 for i in range(20, 40)]
    assert found["image"][:, 0, 0, 0].tolist() == list(range(20, 40))


def test_chosen_examples_in_the_order_asked_for(data_dir):
    source = open_source("tfds:smallnorb?label=label_azimuth", "test", data_dir=data_dir)
    chosen = np.array([33, 2, 20, 7, 2])
    batches = list(eval_batches(source, parse(""), batch_size=2, examples=chosen))
    assert np.concatenate([b["index"] for b in batches]).tolist() == [33, 2, 20, 7, 2, -1]
    assert np.concatenate([b["image"][:, 0, 0, 0] for b in batches]).tolist() == [
        33,
        2,
        20,
        7,
        2,
        0,
    ]


@pytest.mark.parametrize(
    "spec, message",
    [
        ("clevr?label=count_al", "did you mean 'count_all'"),
        ("clevr", "has no label"),
        ("smallnorb?label=label_azimut", "did you mean 'label_azimuth'"),
        ("smallnorb?label=label_azimuth&bins=19", "2 to 18 bins"),
        ("clevr?label=count_all&bins=2", "a rule none"),
        ("clevr?lable=count_all", "write \\?label=NAME"),
        ("clevr?label=count_all&bins=x", "write \\?label=NAME"),
    ],
)
def test_wrong_labels_are_refused(spec, message, data_dir):
    with pytest.raises(InputError, match=message):
        open_source(f"tfds:{spec}", "train", data_dir=data_dir)


def test_a_source_without_file_names():
    with pytest.raises(InputError, match="digits has no names of image files"):
        open_source("digits", "train").file_names()

"""VTAB's table against the paper, the sizes of its data sets, and a data set of that form."""

import math

import numpy as np
import pytest

from vit_jax.config_files import load_config
from vit_jax.data.ops.preprocess import parse
from vit_jax.errors import InputError
from vit_jax.evaluate.frozen import vtab
from vit_jax.plan.dataset import split_size

# Table 9: H/14 and L/16 after JFT, L/16 after ImageNet-21k, in its order of tasks.
TABLE_9 = [
    "95.3 85.5 75.2 99.7 97.2 65.0 88.9 83.3 96.7 91.4 76.6 "
    "91.7 63.8 53.1 79.4 63.3 84.5 33.2 51.2",
    "95.4 81.9 74.3 99.7 96.7 63.5 87.4 83.6 96.5 89.7 77.1 "
    "86.4 63.1 49.7 74.5 60.5 82.2 36.2 51.1",
    "90.8 84.1 74.1 99.3 92.7 61.0 80.9 82.5 95.6 85.2 75.3 "
    "70.3 56.1 41.9 74.7 64.9 79.9 30.5 41.7",
]

# Examples that tfds documents.
SIZES = dict(
    caltech101=dict(train=3059, test=6084),
    cifar100=dict(train=50000, test=10000),
    dtd=dict(train=1880, validation=1880, test=1880),
    flowers=dict(train=1020, validation=1020, test=6149),
    pets=dict(train=3680, test=3669),
    sun397=dict(train=76128, validation=10875, test=21750),
    svhn=dict(train=73257, test=26032),
    camelyon=dict(train=262144, validation=32768, test=32768),
    eurosat=dict(train=27000),
    resisc45=dict(train=31500),
    retinopathy=dict(train=35126, validation=10906, test=42670),
    clevr=dict(train=70000, validation=15000, test=15000),
    dmlab=dict(train=65550, validation=22628, test=22735),
    dsprites=dict(train=737280),
    kitti=dict(train=6347, validation=423, test=711),
    smallnorb=dict(train=24300, test=24300),
)
# Images tested on, in the order of the table.
TESTED = [6084, 10000, 1880, 6149, 3669, 21750, 26032, 32768, 5400, 6300, 42670,
          15000, 15000, 22735, 73728, 73728, 711, 12150, 12150]  # fmt: skip


@pytest.mark.parametrize("column, mean", [(0, 77.6), (1, 76.3), (2, 72.7)])
def test_means_are_those_of_table_9(column, mean):
    scores = dict(zip(vtab.TASKS, map(float, TABLE_9[column].split()), strict=True))
    means = vtab.group_means(scores)
    assert round(means["mean"], 1) == mean
    natural, specialized, structured = np.split(np.array(list(scores.values())), [7, 11])
    assert [means[group] for group in vtab.GROUPS] == pytest.approx(
        [natural.mean(), specialized.mean(), structured.mean()]
    )
    del scores["dmlab"]
    assert set(vtab.group_means(scores)) == {"natural", "specialized"}
    with pytest.raises(InputError, match="did you mean 'dmlab'"):
        vtab.group_means(dict(dmlabs=1.0))


@pytest.mark.parametrize("name, tested", list(zip(vtab.TASKS, TESTED, strict=True)))
def test_splits_hold_800_200_and_the_test_images(name, tested):
    task, sizes = vtab.TASKS[name], SIZES[name.split("_")[0]]
    assert split_size(task.train800, sizes) == 800
    assert split_size(task.val200, sizes) == 200
    assert split_size(task.train1000, sizes) == 1000
    assert split_size(task.test, sizes) == tested


def test_augmentation_that_would_change_a_label_is_left_out():
    still = [name for name, task in vtab.TASKS.items() if not task.flip]
    whole = [name for name, task in vtab.TASKS.items() if not task.crop]
    assert still == ["dsprites_location", "dsprites_orientation", "smallnorb_azimuth"]
    assert whole == ["clevr_count", "clevr_distance", "dmlab", "dsprites_location", "kitti"]
    for task in vtab.TASKS.values():
        train, evaluation = map(parse, vtab.preprocessing(task, 384))
        names = [op.name for op in train.ops]
        assert ("flip_lr" in names, "random_crop" in names) == (task.flip, task.crop)
        assert train.image_size == evaluation.image_size == (384, 384)
        assert evaluation == evaluation.deterministic()
        assert ("multiply" in names) == ("dsprites" in task.source)
    assert vtab.preprocessing(vtab.TASKS["pets"], 384)[0] == (
        "decode|resize(448)|random_crop(384)|flip_lr|value_range(-1, 1)"
    )


def test_the_config_runs_the_protocol():
    final = load_config("configs/vtab.py:ViT-H/14,dsprites_location", [])
    assert (final.total.steps, final.optimizer.learning_rate) == (2500, 0.01)
    assert final.data.split == "train[:800]+train[589824:590024]"
    assert (final.evals.test.split, list(final.evals)) == ("train[663552:]", ["test"])
    assert parse(final.data.pp).image_size == (378, 378)
    select = load_config("configs/vtab.py:ViT-B/16,pets,select", [])
    assert (select.data.split, select.evals.val.split) == ("train[:800]", "train[2944:3144]")
    for arg, hint in {"ViT-B/16": "MODEL,TASK", "ViT-B/16,pet": "'pets'"}.items():
        with pytest.raises(InputError, match=hint):
            load_config(f"configs/vtab.py:{arg}", [])


def test_a_task_on_prepared_files(tmp_path):
    """KITTI in its tfds form: the final run trains on 1000 images, labels follow the rule."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from vit_jax.data import eval_batches, open_source

    features = tfds.features.FeaturesDict(
        dict(
            image=tfds.features.Image(shape=(2, 2, 3), encoding_format="png"),
            objects=tfds.features.Sequence(
                dict(
                    type=tfds.features.ClassLabel(num_classes=8),
                    location=tfds.features.Tensor(shape=(3,), dtype=np.float32),
                )
            ),
        )
    )
    folder = tmp_path / "kitti" / "3.1.0"
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="kitti", version="3.1.0", data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=600, file_format="tfrecord")
    splits = dict(train=range(810), validation=range(1000, 1205), test=range(2000, 2009))

    def example(number):
        """A car at `number` modulo 40 metres before a closer cyclist; every fifth without car."""
        cars = [] if number % 5 == 4 else [number % 40]
        color = np.full((2, 2, 3), (number >> 8, number & 255, 0), np.uint8)
        types = [0] * len(cars) + [5]
        places = [[0, 0, z] for z in [*cars, 1]]
        return dict(image=color, objects=dict(type=types, location=places))

    writer.initialize_splits(list(splits))
    writer.add_examples({name: map(example, numbers) for name, numbers in splits.items()})
    writer.close_all()

    task = vtab.TASKS["kitti"]
    source = open_source(task.source, task.train1000, data_dir=str(tmp_path))
    assert (source.size, source.num_classes) == (1000, task.classes)
    (batch,) = eval_batches(source, parse(""), batch_size=1000)
    numbers = batch["image"][:, 0, 0].astype(int) @ [256, 1, 0]
    assert sorted(numbers) == [*range(800), *range(1000, 1200)]
    expected = [3 if n % 5 == 4 else sum(n % 40 > t for t in (8, 20)) for n in numbers]
    np.testing.assert_array_equal(batch["label"], expected)
    assert math.isclose(np.mean(batch["label"] == 3), 0.2)
    assert open_source(task.source, task.test, data_dir=str(tmp_path)).size == 9

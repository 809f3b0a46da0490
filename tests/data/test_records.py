import numpy as np
import pytest

from vit_jax.data import eval_batches, open_source, parse, train_batches
from vit_jax.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 10, 3), np.uint8)


NAMES = ["red", "green", "blue"]


def examples(start: int, stop: int) -> list[dict]:
    """Pictures whose label is their number modulo 3 and whose labels are its bits."""
    return [
        dict(id=str(i), image=IMAGES[i], label=i % 3, labels=[k for k in range(3) if i >> k & 1])
        for i in range(start, stop)
    ]


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def data_dir(request, tmp_path_factory):
    """A prepared data set "dots" in one of the two formats, its training split in shards."""
    if request.param == "array_record":
        pytest.importorskip("array_record")
    path = tmp_path_factory.mktemp(request.param)
    classes = tfds.features.ClassLabel(names=NAMES)
    image = tfds.features.Image(shape=(8, 10, 3), encoding_format="png")
    features = tfds.features.FeaturesDict(
        dict(
            id=tfds.features.Text(),
            image=image,
            label=classes,
            labels=tfds.features.Sequence(classes),
        )
    )
    folder = path / "dots" / "1.0.0"
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="dots", version="1.0.0", data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=9, file_format=request.param)
    writer.initialize_splits(["train", "test"])
    writer.add_examples(dict(train=examples(0, 24), test=examples(24, 30)))
    writer.close_all()
    return str(path)


def read(source):
    """Images, labels in the order of the source."""
    batches = list(eval_batches(source, parse("decode"), batch_size=7))
    return [np.concatenate([b[name][b["mask"]] for b in batches]) for name in ("image", "label")]


def expected(data_dir, split):
    builder = tfds.builder("dots", data_dir=data_dir)
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        examples = list(builder.as_data_source(split))
    else:
        examples = list(tfds.as_numpy(builder.as_dataset(split)))
    return [np.stack([example[name] for example in examples]) for name in ("image", "label")]


@pytest.mark.parametrize(
    "split", ["train", "test", "train[:50%]", "train[3:20]+test[2:]", "train[-4:]"]
)
def test_examples_are_those_of_tfds(data_dir, split):
    source = open_source("tfds:dots", split, data_dir=data_dir)
    assert source.label_names == ["red", "green", "blue"] and source.image_size == (8, 10)
    for ours, theirs in zip(read(source), expected(data_dir, split)):
        np.testing.assert_array_equal(ours, theirs)


def test_random_access_in_training(data_dir):
    source = open_source("tfds:dots", "train", data_dir=data_dir)
    images, labels = read(source)
    batches = train_batches(source, parse("decode"), batch_size=8, seed=0)
    for _ in range(4):
        batch = next(batches)
        np.testing.assert_array_equal(batch["image"], images[batch["index"]])
        np.testing.assert_array_equal(batch["label"], labels[batch["index"]])
    batches.close()


def test_sets_of_classes(data_dir):
    source = open_source("tfds:dots", "train", data_dir=data_dir, multi_label=True)
    images, labels = read(source)
    for image, label in zip(images, labels):
        number = np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]
        np.testing.assert_array_equal(label, [number >> k & 1 for k in range(3)])


def test_a_folder_of_prepared_files_by_its_path(data_dir):
    source = open_source(f"tfds:{data_dir}/dots/1.0.0", "test")
    assert source.size == 6


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("dots", "tain", "did you mean 'train'"),
        ("dots", "train[:200]", "train"),
        ("dots", "train[:80", "bad slice"),
        ("dotts", "train", "unknown tfds data set"),
        ("mnist", "train", "is not prepared"),
    ],
)
def test_wrong_names(data_dir, name, split, message):
    with pytest.raises(InputError, match=message) as error:
        open_source(f"tfds:{name}", split, data_dir=data_dir)
    assert "\n" not in str(error.value)

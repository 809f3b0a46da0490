import io
import itertools
import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import eval_batches, open_source, parse, planned_examples, train_batches
from vit_jax.data.sources import cache, record_files, records
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


def make(path: pathlib.Path, file_format: str) -> str:
    """Writes a prepared data set "dots", its training split in three files."""
    classes = tfds.features.ClassLabel(names=NAMES)
    features = tfds.features.FeaturesDict(
        dict(
            id=tfds.features.Text(),
            image=tfds.features.Image(shape=(8, 10, 3), encoding_format="png"),
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
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=9, file_format=file_format)
    writer.initialize_splits(["train", "test"])
    writer.add_examples(dict(train=examples(0, 24), test=examples(24, 30)))
    writer.close_all()
    return str(path)


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def data_dir(request, tmp_path_factory):
    """The data set in one of the two formats."""
    if request.param == "array_record":
        pytest.importorskip("array_record")
    return make(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def tfrecords(tmp_path):
    """The data set in TFRecord files of the test's own, to be damaged."""
    return make(tmp_path, "tfrecord")


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


def shard_path(data_dir):
    return sorted(pathlib.Path(data_dir).glob("**/*train*"))[1]


def take(source, steps, **options):
    batches = train_batches(source, parse("decode"), **{**dict(batch_size=8, seed=0), **options})
    found = list(itertools.islice(batches, steps))
    batches.close()
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def test_the_index_is_made_once_and_again_when_files_change(tfrecords, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "SMALL", 1)
    made = []
    bounds = record_files.record_bounds
    monkeypatch.setattr(
        record_files, "record_bounds", lambda path: made.append(path) or bounds(path)
    )

    def opened():
        return open_source("tfds:dots", "train", data_dir=tfrecords, cache_dir=str(tmp_path))

    first = read(opened())
    assert len(made) == 3
    for ours, theirs in zip(read(opened()), first):
        np.testing.assert_array_equal(ours, theirs)
    assert len(made) == 3
    os.utime(shard_path(tfrecords))
    opened()
    assert len(made) == 6


@pytest.mark.parametrize("block", [50, 2**24])
def test_bounds_are_those_tensorflow_reads(block, tfrecords, monkeypatch):
    monkeypatch.setattr(record_files, "BLOCK", block)
    from vit_jax.data._tf import tf

    path = str(shard_path(tfrecords))
    expected = [record.numpy() for record in tf.data.TFRecordDataset(path)]
    assert record_files.TFRecordFile(path).read(np.arange(len(expected))) == expected
    # The same over a URL, as from a bucket.
    assert record_files.TFRecordFile("file://" + path).read(np.arange(len(expected))) == expected


def test_a_missing_file_under_an_address_is_named():
    with pytest.raises(InputError, match="file:///nowhere/x: cannot be read: .*No such file"):
        record_files.record_bounds("file:///nowhere/x")


def test_a_truncated_file_is_named(tfrecords):
    path = shard_path(tfrecords)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="train.*00001: truncated in record 8"):
        open_source("tfds:dots", "train", data_dir=tfrecords)


def test_a_missing_file_is_named(tfrecords):
    shard_path(tfrecords).unlink()
    with pytest.raises(InputError, match="00001: cannot be read: No such file"):
        open_source("tfds:dots", "train", data_dir=tfrecords)


@pytest.mark.parametrize("content", [None, b"", b"x" * 70_000])
def test_bad_array_record_files_are_named(content, tmp_path):
    pytest.importorskip("array_record")
    data_dir = make(tmp_path, "array_record")
    source = open_source("tfds:dots", "train", data_dir=data_dir)
    path = shard_path(data_dir)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="train.*00001.*: cannot be read: ") as error:
        take(source, 4)
    assert "\n" not in str(error.value)


def test_other_file_formats_are_refused():
    with pytest.raises(InputError, match="stored as parquet; prepare it as array_record"):
        records._opener("parquet", (), "", False, "tfds:dots")


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_files_that_change_while_they_are_read(tfrecords, damage, sequential):
    source = open_source("tfds:dots", "train", data_dir=tfrecords, sequential=sequential)
    path = shard_path(tfrecords)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="00001|truncated record"):
        take(source, 4)


def test_a_damaged_image_in_a_record_is_replaced(tfrecords, caplog):
    path = shard_path(tfrecords)
    source = open_source("tfds:dots", "train", data_dir=tfrecords)
    good = take(source, 3)
    data = path.read_bytes()
    place = data.index(b"\x89PNG")
    path.write_bytes(data[:place] + b"rubbish!" + data[place + 8 :])
    found = take(open_source("tfds:dots", "train", data_dir=tfrecords), 3)
    changed = good["index"] != found["index"]
    assert changed.sum() == 1 and good["index"][changed] == 9
    np.testing.assert_array_equal(found["image"][~changed], good["image"][~changed])
    assert "record 0 of" in caplog.text


@pytest.mark.parametrize("shuffle", [True, False])
def test_sequential_reading_is_exact_too(tfrecords, shuffle, caplog):
    caplog.set_level("INFO")
    source = open_source("tfds:dots", "train", data_dir=tfrecords, sequential=True)
    whole = take(source, 9, shuffle=shuffle)
    images, labels = read(source)
    np.testing.assert_array_equal(whole["image"], images[whole["index"]])
    np.testing.assert_array_equal(whole["label"], labels[whole["index"]])
    for epoch in range(3):
        index = whole["index"][whole["epoch"] == epoch]
        np.testing.assert_array_equal(np.sort(index), np.arange(24))
        assert np.array_equal(index, np.arange(24)) != shuffle
    assert "reading past" not in caplog.text
    late = take(source, 4, start_step=5, shuffle=shuffle)
    assert "reading past the 16 of 24 records that epoch 1 had used" in caplog.text
    np.testing.assert_array_equal(late["index"], whole["index"][40:])
    planned = planned_examples(source, batch_size=8, seed=0, step=7, shuffle=shuffle)
    np.testing.assert_array_equal(planned, whole["index"][56:64])
    part = take(source, 9, rows=np.arange(2, 6), shuffle=shuffle)
    np.testing.assert_array_equal(part["index"], whole["index"].reshape(9, 8)[:, 2:6].ravel())


def test_sequential_reading_is_for_tfrecord_files(data_dir):
    if "array_record" in data_dir:
        with pytest.raises(InputError, match="data.sequential=False"):
            open_source("tfds:dots", "train", data_dir=data_dir, sequential=True)
    with pytest.raises(InputError, match="is for tfds sources"):
        open_source("digits", "train", sequential=True)


def test_fingerprints_notice_other_files(tfrecords):
    before = open_source("tfds:dots", "train", data_dir=tfrecords).fingerprint()
    assert open_source("tfds:dots", "train", data_dir=tfrecords).fingerprint() == before
    assert open_source("tfds:dots", "train[:9]", data_dir=tfrecords).fingerprint() != before


def test_mixtures_of_records_and_arrays(tfrecords):
    source = open_source("mix:tfds:dots*1+digits*1", "train[:50%]", data_dir=tfrecords)
    assert source.label_names[:4] == ["red", "green", "blue", "0"]
    batches = train_batches(source, parse("resize(8)"), batch_size=40, seed=0)
    batch = next(batches)
    batches.close()
    dots = batch["index"] < 12
    assert 0 < dots.sum() < 40
    assert set(batch["label"][dots]) <= {0, 1, 2} and set(batch["label"][~dots]) <= set(
        range(3, 13)
    )


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("claimed", [10**9, 10**17, 80])
def test_files_with_fewer_records_than_claimed(claimed, file_format, tmp_path):
    if file_format == "array_record":
        pytest.importorskip("array_record")
    data_dir = make(tmp_path, file_format)
    about = next(tmp_path.rglob("dataset_info.json"))
    info = json.loads(about.read_text())
    for split in info["splits"]:
        split["shardLengths"] = [str(claimed) for _ in split["shardLengths"]]
    about.write_text(json.dumps(info))
    if claimed > 80:
        with pytest.raises(InputError, match="dataset_info.json claims [0-9]+ records"):
            open_source("tfds:dots", "train", data_dir=data_dir)
        return
    source = open_source("tfds:dots", "train", data_dir=data_dir)
    with pytest.raises(InputError, match="holds 9 records|cannot be read"):
        source.fetch(np.array([claimed - 1]))


def test_files_stay_beside_dataset_info(tmp_path):
    data_dir = make(tmp_path, "tfrecord")
    about = next(tmp_path.rglob("dataset_info.json"))
    info = json.loads(about.read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = "../../../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    about.write_text(json.dumps(info))
    with pytest.raises(InputError, match="dataset_info.json names .* outside its folder"):
        open_source("tfds:dots", "train", data_dir=data_dir)


def test_shared_records_are_counted(data_dir):
    def opened(split):
        return open_source("tfds:dots", split, data_dir=data_dir)

    assert opened("train").shared(opened("train[50%:]")) == 12
    assert opened("train[:50%]").shared(opened("train[50%:]+test")) == 0
    assert opened("all").shared(opened("test")) == 6


def test_the_bytes_of_an_image_are_those_of_its_file(data_dir):
    """They do not hold the label or the id, so that copies of an image can be found."""
    source = open_source("tfds:dots", "test", data_dir=data_dir)
    for i in range(source.size):
        number = int(np.flatnonzero((_decoded(source.encoded(i)) == IMAGES).all((1, 2, 3)))[0])
        assert number in range(24, 30)


def _decoded(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))

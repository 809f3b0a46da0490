import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import open_source
from vit_jax.data.sources import arrays
from vit_jax.data.sources.opening import as_source
from vit_jax.errors import InputError

FASHION = "/usr/share/datasets/fashion-mnist"


def write_idx(path, array, compress=False):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    with (gzip.open if compress else open)(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, count, compress in (("train", 60, True), ("t10k", 20, False)):
        suffix = ".gz" if compress else ""
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images, compress)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels, compress)
    return folder


def test_sets_in_memory_and_on_the_device_need_no_tensorflow():
    code = """
import sys
sys.modules["tensorflow"] = None  # importing it fails
from vit_jax import config, data
from vit_jax.parallel.engines import create_engine
from vit_jax.train.resident import resident_batches
source, pp = data.open_source("digits", "train"), data.parse("random_crop(8, padding=1)|flip_lr")
batches = data.train_batches(source, pp, batch_size=8, seed=0)
resident = resident_batches(
    source, pp, create_engine(config.default().parallel), batch_size=8, seed=0
)
assert (next(batches)["image"] == next(resident)["image"]).all()
batches.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = load_digits()
    source = open_source("digits", "train")
    assert source.size == 1797 and source.image_size == (8, 8) and source.num_classes == 10
    np.testing.assert_array_equal(source.labels(np.arange(1797)), digits.target)
    assert np.abs(source.images[..., 0] * (16 / 255) - digits.images).max() < 0.05
    assert source.images.max() == 255


def test_a_fifth_of_the_digits_is_balanced_and_disjoint_from_the_rest():
    train, rest = open_source("digits", "train[:80%]"), open_source("digits", "train[80%:]")
    assert train.size + rest.size == 1797
    assert np.all(np.abs(np.bincount(rest.targets) - np.bincount(train.targets) / 4) <= 1.5)
    both = np.concatenate([train.images, rest.images]).reshape(1797, -1)
    everything = open_source("digits", "all").images.reshape(1797, -1)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(everything, axis=0))


def test_idx_files(mnist):
    train, test = open_source(f"idx:{mnist}", "train"), open_source(f"idx:{mnist}", "test")
    assert (train.size, test.size, train.num_classes) == (60, 20, 10)
    assert train.images.shape == (60, 28, 28, 1) and train.label_names[3] == "3"
    np.testing.assert_array_equal(test.labels(np.arange(20)), np.arange(20) % 10)
    assert open_source(f"idx:{mnist}", "all").size == 80


@pytest.mark.skipif(not os.path.isdir(FASHION), reason="Fashion-MNIST is not installed")
def test_fashion_mnist_has_its_label_names():
    source = open_source(f"idx:{FASHION}", "test")
    assert source.size == 10_000
    assert source.label_names[9] == "Ankle boot"
    assert source.label_names[int(source.labels(np.array([0]))[0])] == "Ankle boot"


def test_multi_label_makes_sets_of_single_labels(mnist):
    source = open_source(f"idx:{mnist}", "test", multi_label=True)
    labels = source.labels(np.array([3, 14]))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.eye(10)[[3, 4]])


@pytest.mark.parametrize("damage", ["cut", "cut.gz", "magic", "missing", "count"])
def test_damaged_idx_files_are_named(mnist, damage):
    path = mnist / "t10k-images-idx3-ubyte"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[:-5])
    elif damage == "cut.gz":
        path = mnist / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-500])
    elif damage == "magic":
        path.write_bytes(b"\x00\x00\x0d\x03" + data[4:])
    elif damage == "missing":
        path.unlink()
    else:
        write_idx(mnist / "t10k-labels-idx1-ubyte", np.zeros(3))
    message = "labels" if damage == "count" else path.name
    with pytest.raises(InputError, match=message):
        open_source(f"idx:{mnist}", "test")


def test_a_folder_or_table_needs_no_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/cat", "photos/dog"):
        Path(name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(f"{name}/1.png")
    Path("labels.csv").write_text("path,label\nphotos/cat/1.png,cat\nphotos/dog/1.png,dog\n")
    for name, kind in (("photos", "folder"), ("labels.csv", "csv")):
        plain, told = open_source(name, "train"), open_source(f"{kind}:{name}", "train")
        assert plain.name == told.name and plain.fingerprint() == told.fingerprint()
        assert list(plain.label_names) == ["cat", "dog"]
    with pytest.raises(InputError, match="no folder or table photo .did you mean 'photos'"):
        open_source("photo", "train")


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), np.uint8)
    labels = np.arange(12) % 3
    np.savez(path, train_images=images, train_labels=labels[:, None], x_val=images[:4],
             y_val=labels[:4], label_names=["a", "b", "c"])  # fmt: skip
    source = open_source(f"npz:{path}", "train")
    np.testing.assert_array_equal(source.images, images)
    np.testing.assert_array_equal(source.labels(np.arange(12)), labels)
    assert source.label_names == ["a", "b", "c"]
    assert open_source(f"npz:{path}", "val").size == 4


def test_npz_with_sets_of_classes(tmp_path):
    path = tmp_path / "set.npz"
    labels = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    np.savez(path, images=np.zeros((2, 4, 4), np.uint8), labels=labels)
    source = open_source(f"npz:{path}", "train", multi_label=True)
    np.testing.assert_array_equal(source.labels(np.arange(2)), labels)
    with pytest.raises(InputError, match="multi_label=True"):
        open_source(f"npz:{path}", "train")


@pytest.mark.parametrize(
    "content, message",
    [
        (dict(images=np.zeros((2, 4, 4)), labels=np.arange(2)), "expected uint8"),
        (dict(images=np.zeros((2, 4, 4), np.uint8)), "images only"),
        (dict(images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(3)), "2 images and 3 labels"),
        (dict(images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0.5, 1])), "integers"),
        (dict(images=np.zeros((2, 4, 4), np.uint8), labels=np.array([-1, 1])), "integers"),
        (dict(pictures=np.zeros(3)), "no images in it"),
        (dict(images=np.zeros((2, 0, 4), np.uint8), labels=np.arange(2)), "no pixels"),
        (dict(images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 2**40])), "from 0"),
        (dict(images=np.array([None, 1]), labels=np.arange(2)), "Object arrays"),
        (dict(images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2), label_names="a"),
         "1 label_names for 2 classes"),
    ],
)  # fmt: skip
def test_wrong_npz(tmp_path, content, message):
    path = tmp_path / "set.npz"
    np.savez(path, **content)
    with pytest.raises(InputError, match=message) as error:
        open_source(f"npz:{path}", "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "array", "directory"])
def test_damaged_npz(tmp_path, damage):
    path = tmp_path / "set.npz"
    np.savez(path, images=np.zeros((9, 4, 4), np.uint8), labels=np.arange(9))
    if damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros((9, 4, 4), np.uint8))
    elif damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(dict(cut=path.read_bytes()[:100], empty=b"", text=b"hello")[damage])
    with pytest.raises(InputError, match=f"npz:{path}: cannot be read: .*(archive|directory)"):
        open_source(f"npz:{path}", "train")


@pytest.mark.parametrize(
    "spec, split, message",
    [
        ("digit", "train", "did you mean 'digits'"),
        ("digits:x", "train", "write digits"),
        ("lmdb:x", "train", "unknown data source 'lmdb:x'; known: csv, digits, folder"),
        ("nowhere", "train", "no folder or table nowhere here.*sources are digits, idx"),
        ("idx:", "train", "write idx:DIR"),
        ("folder", "train", "write folder:DIR"),
        ("idx:/does/not/exist", "train", "no such directory"),
        ("npz:/does/not/exist", "train", "no such file"),
        ("folder:/does/not/exist", "train", "no such directory"),
        ("digits", "test", "unknown split"),
        ("digits", "train[:80", "bad slice"),
    ],
)
def test_wrong_sources(spec, split, message):
    with pytest.raises(InputError, match=message) as error:
        open_source(spec, split)
    assert "\n" not in str(error.value)


def test_fashion_names_need_few_enough_classes():
    assert len(arrays.FASHION) == 10


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_fashion_mnist_says_where_to_get_it(there, tmp_path):
    folder = tmp_path / "dataset-fashion-mnist"
    if there:
        folder.mkdir()
    with pytest.raises(InputError, match="apt install dataset-fashion-mnist.*https://github.com"):
        open_source(f"idx:{folder}", "train")


def test_a_folder_or_table_without_its_kind_is_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("labels.csv", "labels.JSONL", "x.parquet", "x.tar", "x.npz", "x.jpg"):
        (tmp_path / name).write_text("")
    kinds = {
        "photos": "folder", "labels.csv": "csv", "labels.JSONL": "csv", "x.parquet": "parquet",
        "x.tar": "wds", "x.npz": "npz",
    }  # fmt: skip
    for name, kind in kinds.items():
        assert as_source(name) == f"{kind}:{name}"
    for name in ("labels.csv?label=breed", "photos?label=(.*)_"):
        assert as_source(name) == f"{kinds[name.partition('?')[0]]}:{name}"
    for name in ("x.jpg", "absent.csv", "images", "foldr"):
        with pytest.raises(InputError, match=f"no folder or table {name} here") as error:
            as_source(name)
        assert ("did you mean 'folder'" in str(error.value)) == (name == "foldr")

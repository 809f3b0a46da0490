"""Folders whose files carry the class in their name, and ImageNet as Kaggle ships it."""

import os
import shutil

import numpy as np
import pytest

from vit_jax.data import check_unchanged, open_source, parse, train_batches
from vit_jax.data.sources import cache, folder
from vit_jax.data.sources.layouts import flat, imagenet
from vit_jax.errors import InputError


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder._say_once.cache_clear()


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def names(source) -> list[str]:
    return [os.path.basename(os.fsdecode(path)) for path in source.fetch(np.arange(source.size))]


def assert_same_batches(first: str, second: str, split: str = "train"):
    """Batches, slices and a resumed run are bit for bit the same."""
    for part, step in ((split, 0), (f"{split}[:70%]", 0), (split, 3)):
        found = []
        for name in (first, second):
            batches = train_batches(
                open_source(name, part), parse("resize(12)|random_crop(8)"),
                batch_size=5, seed=1, start_step=step,
            )  # fmt: skip
            found.append([next(batches) for _ in range(2)])
            batches.close()
        for one, other in zip(*found):
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])


@pytest.fixture
def cats_and_dogs(folder, tmp_path):
    """The images of `folder` as in Kaggle's Dogs vs. Cats."""
    for path in folder.rglob("*.jpg"):
        place = tmp_path / "kaggle" / "train" / f"{path.parent.name}.{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return tmp_path / "kaggle"


def test_the_class_in_the_name_trains_as_class_folders(cats_and_dogs, folder):
    name = rf"folder:{cats_and_dogs}?label=(\w+)\.\d+"
    assert open_source(name, "train").label_names == ["cat", "dog"]
    assert_same_batches(name, f"folder:{folder}")


def test_names_as_in_oxford_pets(tmp_path, caplog):
    for name in ("Abyssinian_12.jpg", "american_bulldog_3.jpg", "Abyssinian_100.jpg", "._x_1.jpg"):
        touch(tmp_path / "images" / name)
    for name in ("README.jpg", "Abyssinian_34.mat"):
        touch(tmp_path / "images" / name)
    source = open_source(rf"folder:{tmp_path}/images?label=(.+)_\d+\.jpg$", "train")
    assert source.label_names == ["Abyssinian", "american_bulldog"]
    assert names(source) == ["Abyssinian_100.jpg", "Abyssinian_12.jpg", "american_bulldog_3.jpg"]
    assert r"1 images whose name does not match (.+)_\d+\.jpg$ (README.jpg)" in caplog.text
    assert "1 .mat files" in caplog.text
    slices = [
        open_source(rf"folder:{tmp_path}/images?label=(.+)_\d+\.jpg$", split).size
        for split in ("train[:50%]", "train[50%:]")
    ]
    assert sum(slices) == 3


def test_numbers_are_sorted_as_numbers_and_splits_are_folders(tmp_path, caplog):
    for name in ("train/10_a.png", "train/9_b.png", "train/9_a.png", "val/10_c.png", "test/1.png"):
        touch(tmp_path / name)
    touch(tmp_path / "preview.png")
    where = rf"folder:{tmp_path}?label=^(\d+)_"
    assert open_source(where, "train").label_names == ["9", "10"]
    assert names(open_source(where, "train")) == ["9_a.png", "9_b.png", "10_a.png"]
    assert list(open_source(where, "val").targets) == [1]
    assert names(open_source(where, "all"))[-1] == "10_c.png"
    assert "1 images beside the folders of splits" in caplog.text
    with pytest.raises(InputError, match="unknown split 'test' of .*; its splits: train, val; all"):
        open_source(where, "test")
    touch(tmp_path / "val" / "8_x.png")
    with pytest.raises(InputError, match="class '8' is in val but not in train"):
        open_source(where, "train")


def test_folders_below_are_read_with_nested_top(tmp_path):
    for name in ("a/cat_1.jpg", "b/dog_2.jpg", "b/c/cat_3.jpg"):
        touch(tmp_path / name)
    where = rf"folder:{tmp_path}?label=(\w+)_\d"
    with pytest.raises(InputError, match="no images directly in it"):
        open_source(where, "train")
    source = open_source(where, "train", nested="top")
    assert names(source) == ["cat_1.jpg", "cat_3.jpg", "dog_2.jpg"]
    with pytest.raises(InputError, match="nested='path' names classes by folders"):
        open_source(where, "train", nested="path")


@pytest.mark.parametrize(
    "pattern, what",
    [
        ("(", "no regular expression"),
        (r"\w+", "it has 0 groups"),
        (r"(\w)(\d)", "it has 2 groups"),
        (r"(\d+)_x", "no image's name matches, such as cat.0.jpg, cat.1.jpg"),
        ("", "bad data source"),
    ],
)
def test_patterns_that_name_no_class(pattern, what, cats_and_dogs):
    with pytest.raises(InputError, match=what):
        open_source(f"folder:{cats_and_dogs}/train?label={pattern}", "train")


@pytest.mark.parametrize("layout", ["flat", "imagenet"])
def test_changes_are_noticed(layout, cats_and_dogs, kaggle, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 1)
    root, where, file = dict(
        flat=(cats_and_dogs, rf"folder:{cats_and_dogs}?label=(\w+)\.", "train/cat.3.jpg"),
        imagenet=(kaggle, f"folder:{kaggle}", "ILSVRC/Data/CLS-LOC/train/n02/n02_3.JPEG"),
    )[layout]
    before = open_source(where, "train").fingerprint()
    module = dict(flat=flat, imagenet=imagenet)[layout]
    monkeypatch.setattr(module, "_listed", None)  # the list is kept
    check_unchanged(open_source(where, "train"), before, "then")
    monkeypatch.undo()
    (root / file).rename((root / file).with_stem("n02_9x" if layout == "imagenet" else "dog.3x"))
    with pytest.raises(InputError, match="has changed since then"):
        check_unchanged(open_source(where, "train"), before, "then")


@pytest.fixture
def kaggle(folder, tmp_path):
    """The images of `folder` as ImageNet of Kaggle: cats are n02, dogs n01."""
    root = tmp_path / "imagenet"
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    lines = ["ImageId,PredictionString"]
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        synset = dict(cat="n02", dog="n01")[path.parent.name]
        place = images / "train" / synset / f"{synset}_{path.stem}.JPEG"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        if int(path.stem) < 3:
            val = f"ILSVRC2012_val_{20 - number:08d}"
            (images / "val").mkdir(exist_ok=True)
            shutil.copy(path, images / "val" / f"{val}.JPEG")
            lines.append(f"{val},{synset} 1 2 3 4 {synset} 5 6 7 8 ")
    touch(images / "test" / "ILSVRC2012_test_00000001.JPEG")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    (root / "LOC_synset_mapping.txt").write_text("n02 tabby, tabby cat\nn01 dog\n")
    return root


@pytest.fixture
def sorted_kaggle(kaggle, tmp_path):
    """The same images in class folders whose names sort as Kaggle's classes do."""
    with open(kaggle / "LOC_val_solution.csv") as file:
        solution = dict(line.split()[0].split(",") for line in file.readlines()[1:])
    for path in (kaggle / "ILSVRC/Data/CLS-LOC").rglob("*.JPEG"):
        if path.parent.name != "test":
            split = "val" if path.parent.name == "val" else "train"
            synset = solution[path.stem] if split == "val" else path.parent.name
            name = dict(n02="0", n01="1")[synset]
            place = tmp_path / "sorted" / split / name / f"{path.stem}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return tmp_path / "sorted"


def test_imagenet_of_kaggle_trains_as_class_folders(kaggle, sorted_kaggle):
    source = open_source(f"folder:{kaggle}", "train")
    assert source.label_names == ["tabby, tabby cat", "dog"] and source.size == 20
    val = open_source(f"folder:{kaggle}", "val")
    assert val.size == 6 and val.file_names()[0].startswith("ILSVRC2012_val_000000")
    assert_same_batches(f"folder:{kaggle}", f"folder:{sorted_kaggle}")
    assert_same_batches(f"folder:{kaggle}", f"folder:{sorted_kaggle}", "val")


def test_val_that_was_sorted_into_class_folders(kaggle, sorted_kaggle):
    images = kaggle / "ILSVRC" / "Data" / "CLS-LOC"
    expected = open_source(f"folder:{kaggle}", "val")
    shutil.rmtree(images / "val")
    for name, synset in (("0", "n02"), ("1", "n01")):
        shutil.copytree(sorted_kaggle / "val" / name, images / "val" / synset)
    for solution in (True, False):
        source = open_source(f"folder:{kaggle}", "val")
        np.testing.assert_array_equal(source.targets, expected.targets)
        if solution:
            (kaggle / "LOC_val_solution.csv").unlink()


def test_imagenet_without_its_lists(kaggle, caplog):
    (kaggle / "LOC_synset_mapping.txt").unlink()
    assert open_source(f"folder:{kaggle}", "val").label_names == ["n01", "n02"]
    (kaggle / "LOC_val_solution.csv").unlink()
    with pytest.raises(InputError, match="unknown split 'val' of .*its splits: train; all"):
        open_source(f"folder:{kaggle}", "val")
    assert "6 images of val, as LOC_val_solution.csv with their labels is missing" in caplog.text


def test_two_classes_of_one_name_get_their_synset(kaggle):
    (kaggle / "LOC_synset_mapping.txt").write_text("n01 crane\nn02 crane\n")
    assert open_source(f"folder:{kaggle}", "train").label_names == ["crane (n01)", "crane (n02)"]


@pytest.mark.parametrize(
    "file, text, what",
    [
        ("LOC_synset_mapping.txt", "n01 a\nn01 b\n", "line 2: expected a synset of its own"),
        ("LOC_synset_mapping.txt", "n01\n", "line 1: expected a synset"),
        ("LOC_synset_mapping.txt", "n01 a\n", "1 of its classes have no line of .* such as n02"),
        ("LOC_synset_mapping.txt", "n01 a\nn02 b\nn03 c\n", "have no folder, such as n03"),
        ("LOC_synset_mapping.txt", b"\xff\xfe", "cannot be read"),
        ("LOC_val_solution.csv", "a,n09 1 2", "line 1: 'n09' is no class"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\na", "line 2: '' is no class"),
        ("LOC_val_solution.csv", "a,n01 1 2", "6 images have no label in .*: ILSVRC2012_val_"),
    ],
)
def test_lists_that_are_not_as_kaggle_wrote_them(file, text, what, kaggle):
    (kaggle / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=what):
        open_source(f"folder:{kaggle}", "train")

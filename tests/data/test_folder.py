import os

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.errors import InputError


def paths(source) -> list[str]:
    return [os.fsdecode(path) for path in source.fetch(np.arange(source.size))]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_a_folder_of_classes_is_one_split(folder):
    source = open_source(f"folder:{folder}", "train")
    assert source.size == 20 and source.label_names == ["cat", "dog"]
    for path, label in zip(paths(source), source.labels(np.arange(20))):
        assert os.path.dirname(path).endswith(source.label_names[label])
        assert os.path.isfile(path)


def test_slices_are_disjoint_and_cover_all_classes(folder):
    train = open_source(f"folder:{folder}", "train[:80%]")
    rest = open_source(f"folder:{folder}", "train[80%:]")
    assert not set(paths(train)) & set(paths(rest))
    assert len(paths(train)) + len(paths(rest)) == 20
    assert set(rest.targets) == {0, 1}


def test_folders_of_splits(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/2.PNG", "train/Ant/0.webp", "val/dog/3.jpeg"):
        touch(tmp_path / name)
    touch(tmp_path / "train/cat/notes.txt")
    touch(tmp_path / "train/cat/.hidden.jpg")
    (tmp_path / "docs").mkdir()
    train, val = (open_source(f"folder:{tmp_path}", split) for split in ("train", "val"))
    assert train.label_names == val.label_names == ["Ant", "cat", "dog"]
    assert [os.path.basename(path) for path in paths(train)] == ["0.webp", "1.jpg", "2.PNG"]
    np.testing.assert_array_equal(val.labels(np.arange(1)), [2])
    both = open_source(f"folder:{tmp_path}", "all")
    assert paths(both) == paths(train) + paths(val)
    assert both.describe(3).endswith("val/dog/3.jpeg")


def test_names_that_are_not_ascii(tmp_path):
    touch(tmp_path / "grün" / "süß 1.jpg")
    source = open_source(f"folder:{tmp_path}", "train")
    assert os.path.isfile(paths(source)[0]) and source.label_names == ["grün"]


def test_an_empty_class_folder_is_named(folder):
    (folder / "bird").mkdir()
    with pytest.raises(InputError, match="bird: class folder without images"):
        open_source(f"folder:{folder}", "train")


def test_no_images_at_all(tmp_path):
    with pytest.raises(InputError, match="no class folders"):
        open_source(f"folder:{tmp_path}", "train")
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="no images found"):
        open_source(f"folder:{tmp_path}", "train")


def test_a_class_that_training_does_not_know(tmp_path):
    for name in ("train/cat/1.jpg", "val/dog/3.jpg"):
        touch(tmp_path / name)
    with pytest.raises(InputError, match="'dog' is in val but not in train"):
        open_source(f"folder:{tmp_path}", "val")


def test_a_file_is_no_folder(tmp_path):
    touch(tmp_path / "x.jpg")
    with pytest.raises(InputError, match="cannot be listed"):
        open_source(f"folder:{tmp_path / 'x.jpg'}", "train")


def test_an_unreadable_folder(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cat: cannot be listed: Permission denied"):
        open_source(f"folder:{folder}", "train")


def test_unknown_split_lists_those_there_are(folder):
    with pytest.raises(InputError, match="train"):
        open_source(f"folder:{folder}", "test")

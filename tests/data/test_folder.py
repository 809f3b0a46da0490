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
    with pytest.raises(InputError, match="no class folders in it; expected"):
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


def names(source) -> list[str]:
    return [os.path.basename(path) for path in paths(source)]


def test_a_test_folder_without_classes_is_passed_over_with_a_word(tmp_path, caplog):
    """The layout of competitions."""
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg", "test/4.jpg"):
        touch(tmp_path / name)
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.label_names == ["cat", "dog"] and names(source) == ["1.jpg", "2.jpg"]
    assert "not read: 2 images of test, which has no class folders and so no labels" in caplog.text
    with pytest.raises(InputError, match="unknown split 'test' of .*its splits: train; all"):
        open_source(f"folder:{tmp_path}", "test")


def test_a_picture_beside_class_folders_decides_nothing(tmp_path, caplog):
    for split in ("train", "val"):
        touch(tmp_path / split / "preview.png")
        for name in ("cat/1.jpg", "dog/2.jpg"):
            touch(tmp_path / split / name)
    source = open_source(f"folder:{tmp_path}", "all")
    assert source.label_names == ["cat", "dog"] and names(source) == ["1.jpg", "2.jpg"] * 2
    assert "not read: 2 images beside class folders" in caplog.text


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train/1.jpg", "car/2.jpg"):
        touch(tmp_path / name)
    assert open_source(f"folder:{tmp_path}", "train").label_names == ["car", "train"]


def test_a_single_class_is_said(tmp_path, caplog):
    touch(tmp_path / "train/images/1.png")
    assert open_source(f"folder:{tmp_path}", "train").num_classes == 1
    assert "has a single class, 'images'; to tell classes apart" in caplog.text


def test_images_without_folders_are_counted_in_the_refusal(tmp_path):
    touch(tmp_path / "1.png")
    with pytest.raises(InputError, match="no class folders in it, but 1 images beside"):
        open_source(f"folder:{tmp_path}", "train")


def test_what_is_left_out_is_counted_by_kind_in_one_line(folder, tmp_path, caplog):
    for name in ("a.psd", "b.svg", "c.txt", "more/1.jpg", "more/deep/2.jpg"):
        touch(folder / "cat" / name)
    (folder / "dog" / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    assert open_source(f"folder:{folder}", "train").size == 20
    (line,) = (record.getMessage() for record in caplog.records)
    for kind in ("2 images in folders below", "1 .psd files", "1 .svg", "1 .txt", "1 broken"):
        assert kind in line


def test_the_count_is_kept_with_the_list(folder, caplog, monkeypatch):
    from vit_jax.data.sources import cache
    from vit_jax.data.sources import folder as module

    monkeypatch.setattr(cache, "SMALL", 1)
    touch(folder / "cat" / "a.psd")
    for _ in range(2):
        module._say_once.cache_clear()
        open_source(f"folder:{folder}", "train")
    assert caplog.text.count("not read: 1 .psd files") == 2


@pytest.mark.parametrize(
    "nested, classes", [("top", ["big", "small"]), ("path", ["big/cat", "big/dog", "small"])]
)
def test_nested_classes_are_an_option(nested, classes, tmp_path):
    for name in ("big/cat/1.jpg", "big/dog/2.jpg", "small/3.jpg", "small/deep/notes.txt"):
        touch(tmp_path / "train" / name)
    spec = f"folder:{tmp_path}"
    with pytest.raises(InputError, match=r"big: class folder without .*hold images \(cat, dog\)"):
        open_source(spec, "train")
    source = open_source(spec, "train", nested=nested)
    assert source.label_names == classes and names(source) == ["1.jpg", "2.jpg", "3.jpg"]
    assert all(os.path.isfile(path) for path in paths(source))
    with pytest.raises(InputError, match="unknown data.nested 'deep'"):
        open_source(spec, "train", nested="deep")


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path / "cat" / "1.jpg")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path / "cat")
    for nested in ("no", "top", "path"):
        assert open_source(f"folder:{tmp_path}", "train", nested=nested).size == 1


def test_links_that_leave_the_folder_are_followed_only_if_asked(folder, tmp_path, caplog):
    outside = tmp_path / "outside"
    touch(outside / "secret.jpg")
    (folder / "cat" / "link.jpg").symlink_to(outside / "secret.jpg")
    (folder / "cow").symlink_to(outside)
    (folder / "dog" / "same.jpg").symlink_to(folder / "dog" / "1.jpg")  # stays inside
    inside = open_source(f"folder:{folder}", "train")
    assert inside.size == 21 and inside.label_names == ["cat", "dog"]
    assert "2 links that leave the folder (data.follow_links=True" in caplog.text
    everything = open_source(f"folder:{folder}", "train", follow_links=True)
    assert everything.size == 23 and everything.label_names == ["cat", "cow", "dog"]


def test_a_folder_may_be_a_link_itself(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert open_source(f"folder:{tmp_path / 'link'}", "train").size == 20


def test_numbers_are_sorted_as_numbers(tmp_path):
    for number in range(12):
        touch(tmp_path / str(number) / "1.jpg")
    source = open_source(f"folder:{tmp_path}", "train")
    assert list(source.label_names) == [str(number) for number in range(12)]
    touch(tmp_path / "other" / "1.jpg")
    source = open_source(f"folder:{tmp_path}", "train")
    assert list(source.label_names)[:3] == ["0", "1", "10"]


def test_tiff_and_pgm_are_listed(tmp_path):
    for name in ("1.TIF", "2.tiff", "3.pgm", "4.ppm", "5.jfif"):
        touch(tmp_path / "cat" / name)
    assert open_source(f"folder:{tmp_path}", "train").size == 5

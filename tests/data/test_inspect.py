import json

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import inspect, open_configured, open_source, parse, train_batches
from vit_jax.data.options import DataOptions
from vit_jax.errors import InputError


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_a_summary(kind, folder):
    source = open_source("digits" if kind == "digits" else f"folder:{folder}", "train")
    found = inspect.describe(source, parse("resize(16)"), samples=5)
    assert json.loads(json.dumps(found)) is not None
    assert found["examples"] == source.size and found["classes"] == source.num_classes
    size = [8, 8] if kind == "digits" else [40, 50]
    assert found["image_sizes"] == dict(smallest=size, median=size, largest=size)
    assert found["image_size"] == (16, 16)
    if kind == "folder":
        assert found["examples_per_class"] == [10, 10]
        assert found["class_examples"] == {"cat": 10, "dog": 10}
        assert found["bytes_per_example"] > 1000
    else:
        assert found["bytes_per_example"] == 64


def test_the_contact_sheet_shows_images_before_and_after(folder, tmp_path):
    source = open_source(f"folder:{folder}", "train")
    path = tmp_path / "sheet.png"
    inspect.contact_sheet(
        source, parse("inception_crop(16)|flip_lr"), str(path), examples=4, epochs=2
    )
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (16 + 3 * 130, 4 * 130, 3)
    first = [sheet[16 + 130 * row : 16 + 130 * row + 100, :128] for row in range(3)]
    assert not np.array_equal(first[1], first[2])  # another crop in the second epoch


def test_the_contact_sheet_shows_what_training_gets(folder, tmp_path):
    source, pp = open_source(f"folder:{folder}", "train"), parse("inception_crop(128)|flip_lr")
    inspect.contact_sheet(source, pp, str(tmp_path / "x.png"), examples=3, epochs=1, seed=4)
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    batches = train_batches(source, pp, batch_size=3, seed=4)
    for column, image in enumerate(next(batches)["image"]):
        left = 130 * column
        np.testing.assert_array_equal(sheet[146 : 146 + 128, left : left + 128], image)
    batches.close()


def test_sets_of_classes_are_named():
    assert inspect._name(["a", "b", "c"], np.array([1, 0, 1])) == "a, c"
    assert inspect._name(["a", "b", "c"], np.array([0, 0, 0])) == "none"
    assert inspect._name(["a", "b", "c"], np.int32(1)) == "b"


def test_speed_is_positive():
    source = open_source("digits", "train")
    found = inspect.measure_speed(source, parse("flip_lr"), batch_size=32, seconds=0.1)
    assert found.images_per_second > 0 and found.skipped == 0


def test_speed_is_measured_although_images_are_broken(folder):
    for number in range(5):
        (folder / "cat" / f"{number}.jpg").write_text("nothing")
    source = open_source(f"folder:{folder}", "train")
    found = inspect.measure_speed(source, parse("resize(8)"), batch_size=20, seconds=0.2)
    assert found.images_per_second > 0
    # A quarter of the examples; of those that take their places, a quarter again.
    assert found.seen >= 20 and found.skipped == pytest.approx(found.seen / 4, rel=0.5)


def test_the_contact_sheet_leaves_broken_images_out(folder, tmp_path):
    for number in range(10):
        (folder / "cat" / f"{number}.jpg").write_text("nothing")
    source = open_source(f"folder:{folder}", "train")
    inspect.contact_sheet(source, parse("resize(8)"), str(tmp_path / "x.png"), examples=4)
    assert Image.open(tmp_path / "x.png").width == 4 * 130


def test_a_source_by_its_config():
    options = DataOptions(source="digits", split="train[:80%]")
    assert open_configured(options).size == 1438
    assert open_configured(options, split="train[80%:]").size == 359


def test_unreadable_images_are_counted(folder):
    (folder / "cat" / "3.jpg").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    (folder / "dog" / "3.jpg").write_text("<html>not found</html>")
    found = inspect.describe(open_source(f"folder:{folder}", "train"), parse("resize(16)"))
    first = found["unreadable"].pop("first")
    assert found["unreadable"] == dict(images=2, of=20)
    assert "cat/3.jpg: holds a video; convert it" in first
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"rubbish")
    with pytest.raises(InputError, match="none of 20 images"):
        inspect.describe(open_source(f"folder:{folder}", "train"), parse("resize(16)"))

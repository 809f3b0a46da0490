import itertools
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import eval_batches, load_images, open_source, parse, train_batches
from vit_jax.errors import InputError

IN_MEMORY = "resize(12)|random_crop(12, padding=2)|flip_lr"
IN_GRAPH = "inception_crop(12)|flip_lr"  # no form in NumPy


def take(source, pp, steps, **options):
    batches = train_batches(source, parse(pp), **{**dict(batch_size=24, seed=5), **options})
    found = list(itertools.islice(batches, steps))
    batches.close()
    return {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def digits():
    return open_source("digits", "train[:10%]")


@pytest.mark.parametrize("pp", [IN_MEMORY, IN_GRAPH])
def test_shapes_and_types(digits, pp):
    found = take(digits, pp, 1)
    assert found["image"].shape == (24, 12, 12, 3) and found["image"].dtype == np.uint8
    assert found["label"].shape == (24,) and found["label"].dtype == np.int32
    assert found["index"].dtype == np.int64
    np.testing.assert_array_equal(found["label"], digits.labels(found["index"]))


@pytest.mark.parametrize("pp", [IN_MEMORY, IN_GRAPH])
def test_starting_later_is_going_on(digits, pp):
    whole, late = take(digits, pp, 6), take(digits, pp, 3, start_step=3)
    same({name: value[72:] for name, value in whole.items()}, late)


@pytest.mark.parametrize("pp", [IN_MEMORY, IN_GRAPH])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch(digits, pp, count):
    whole = take(digits, pp, 3)
    share = 24 // count
    parts = [take(digits, pp, 3, rows=np.arange(i * share, (i + 1) * share)) for i in range(count)]
    joined = {
        name: np.concatenate(
            [part[name][k * share : (k + 1) * share] for k in range(3) for part in parts]
        )
        for name in whole
    }
    same(joined, whole)


@pytest.mark.parametrize("pp", [IN_MEMORY, IN_GRAPH])
def test_each_epoch_has_every_example_once(digits, pp):
    found = take(digits, pp, 24)
    for epoch in (0, 1, 2):
        index = found["index"][found["epoch"] == epoch]
        np.testing.assert_array_equal(np.sort(index), np.arange(digits.size))


def test_the_seed_changes_order_and_augmentation(digits):
    first, second = take(digits, IN_MEMORY, 2), take(digits, IN_MEMORY, 2, seed=6)
    assert (first["index"] != second["index"]).mean() > 0.9
    plain = take(digits, IN_MEMORY, 2, shuffle=False)
    np.testing.assert_array_equal(plain["index"], np.arange(48))


def test_augmentation_changes_from_epoch_to_epoch(digits):
    found = take(digits, IN_MEMORY, 16)
    seen = found["image"][found["index"] == 0]
    assert len(seen) > 1 and not np.array_equal(seen[0], seen[1])


def test_threads_change_nothing(digits):
    same(take(digits, IN_GRAPH, 4, threads=1), take(digits, IN_GRAPH, 4, threads=4))
    same(take(digits, IN_MEMORY, 4, threads=1), take(digits, IN_MEMORY, 4, threads=4))


@pytest.mark.parametrize("pp", ["resize(12)", "resize(12, method='bicubic')"])
@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_counts_everything_once(digits, pp, count):
    share = 50 // count
    batches = [
        list(
            eval_batches(
                digits, parse(pp), batch_size=50, rows=np.arange(i * share, (i + 1) * share)
            )
        )
        for i in range(count)
    ]
    assert {len(part) for part in batches} == {-(-digits.size // 50)}
    flat = [batch for part in batches for batch in part]
    assert all(batch["image"].shape == (share, 12, 12, 3) for batch in flat)
    index = np.concatenate([batch["index"][batch["mask"]] for batch in flat])
    np.testing.assert_array_equal(np.sort(index), np.arange(digits.size))
    padding = flat[-1]["index"][~flat[-1]["mask"]]
    assert len(padding) and np.all(padding == -1)


def test_a_process_without_examples_gets_padding():
    few = open_source("digits", "train[:3]")
    for pp in ("resize(12)", "resize(12, method='bicubic')"):
        (batch,) = eval_batches(few, parse(pp), batch_size=8, rows=np.arange(4, 8))
        assert batch["image"].shape == (4, 12, 12, 3) and not batch["mask"].any()
        assert batch["label"].shape == (4,)


def test_evaluation_ignores_randomness(digits):
    random, fixed = (
        next(eval_batches(digits, parse(pp), batch_size=8))
        for pp in ("random_crop(8, padding=2)|flip_lr", "pad(2)|central_crop(8)")
    )
    np.testing.assert_array_equal(random["image"], fixed["image"])


def test_files(folder):
    source = open_source(f"folder:{folder}", "train")
    whole = take(source, "inception_crop(16)|flip_lr", 4, batch_size=10)
    late = take(source, "inception_crop(16)|flip_lr", 2, batch_size=10, start_step=2)
    same({name: value[20:] for name, value in whole.items()}, late)
    (batch,) = eval_batches(source, parse("resize((40, 50))"), batch_size=20)
    expected = np.asarray(Image.open(os.fsdecode(source.fetch(np.array([7]))[0])))
    np.testing.assert_array_equal(batch["image"][7], expected)


def test_sizes_that_differ_are_refused_before_they_meet(folder):
    source = open_source(f"folder:{folder}", "train")
    with pytest.raises(InputError, match="may differ in size"):
        train_batches(source, parse("decode|resize_small(20)"), batch_size=4, seed=0)


def test_a_crop_beyond_the_image_is_refused_at_once(digits):
    with pytest.raises(InputError, match="8x8"):
        train_batches(digits, parse("random_crop(9)"), batch_size=4, seed=0)


def truncate(path):
    path.write_bytes(path.read_bytes()[:300])


def overwrite(path):
    path.write_text("<html>404 Not Found</html>")


@pytest.mark.parametrize("damage", [truncate, overwrite])
def test_a_bad_image_in_training_is_replaced_counted_and_named_once(damage, folder, caplog):
    source = open_source(f"folder:{folder}", "train")
    good = take(source, "resize(16)|flip_lr", 6, batch_size=10)
    damage(folder / "cat" / "3.jpg")
    batches = train_batches(source, parse("resize(16)|flip_lr"), batch_size=10, seed=5)
    found = [next(batches) for _ in range(6)]
    assert batches.skipped >= 3  # three epochs, and it may come up as a replacement
    assert caplog.text.count("cat/3.jpg") == 1
    found = {name: np.concatenate([batch[name] for batch in found]) for name in good}
    bad = good["index"] == 3
    assert bad.sum() == 3 and not np.any(found["index"] == 3)
    for name in ("image", "label", "index"):
        np.testing.assert_array_equal(found[name][~bad], good[name][~bad])
    np.testing.assert_array_equal(found["label"], source.labels(found["index"]))
    late = take(source, "resize(16)|flip_lr", 3, batch_size=10, start_step=3)
    same({name: value[30:] for name, value in found.items()}, late)
    parts = [
        take(source, "resize(16)|flip_lr", 6, batch_size=10, rows=rows)
        for rows in (np.arange(5), np.arange(5, 10))
    ]
    for name in found:
        halves = [part[name].reshape(6, 5, *part[name].shape[1:]) for part in parts]
        joined = np.concatenate(halves, axis=1)
        np.testing.assert_array_equal(joined.reshape(found[name].shape), found[name])


@pytest.mark.parametrize("opened", ["digits", "photographs"])
def test_flips_that_are_left_are_those_of_the_host(opened, digits, folder):
    if opened == "digits":
        source, pp = digits, "random_crop(8, padding=1)|flip_lr|value_range(-1, 1)"
    else:
        truncate(folder / "cat" / "3.jpg")  # another takes its place, with flips of its own
        source, pp = open_source(f"folder:{folder}", "train"), "inception_crop(16)|flip_lr"
    wanted, left = (
        take(source, pp, 12, leave_flip=leave, max_unreadable=1) for leave in (False, True)
    )
    flip = left.pop("flip")
    assert flip.dtype == bool and 0.2 < flip.mean() < 0.8 and "flip" not in wanted
    images = left["image"]
    left["image"] = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
    same(left, wanted)


def test_only_flips_that_stand_last_are_left(digits):
    """Later operations have to see them."""
    for pp in ("flip_lr|random_crop(8, padding=1)", "flip_ud", "resize(8)"):
        same(*(take(digits, pp, 1, leave_flip=leave) for leave in (False, True)))


def test_every_step_of_an_unreadable_stretch_is_filled(folder):
    """Whole batches without a readable example, between others."""
    source = open_source(f"folder:{folder}", "train")
    index = take(source, "resize(8)", 5, batch_size=4)["index"]  # one epoch
    for bad in index[4:12]:
        truncate(pathlib.Path(source.describe(bad)))
    found = take(source, "resize(8)", 5, batch_size=4, max_unreadable=1)
    np.testing.assert_array_equal(found["index"][:4], index[:4])
    np.testing.assert_array_equal(found["index"][12:], index[12:])
    assert not set(found["index"]) & set(index[4:12])


def test_too_many_damaged_images_end_training(folder):
    source = open_source(f"folder:{folder}", "train")
    for i in range(9):
        truncate(folder / "dog" / f"{i}.jpg")
    batches = train_batches(source, parse("resize(16)"), batch_size=10, seed=0)
    with pytest.raises(InputError, match="more than data.max_unreadable = 0.01.*dog/"):
        for _ in range(10):
            next(batches)


def test_one_damaged_image_ends_no_training_however_often_it_is_met(folder):
    source = open_source(f"folder:{folder}", "train")
    truncate(folder / "dog" / "3.jpg")
    found = take(source, "resize(8)", 30, batch_size=source.size)  # 30 epochs
    assert len(found["index"]) == 30 * source.size


def test_without_any_allowed_the_first_damaged_image_ends_training(folder):
    source = open_source(f"folder:{folder}", "train")
    truncate(folder / "dog" / "3.jpg")
    batches = train_batches(source, parse("resize(16)"), batch_size=10, seed=0, max_unreadable=0.0)
    with pytest.raises(InputError, match="more than data.max_unreadable = 0;.*dog/3.jpg"):
        for _ in range(10):
            next(batches)


def test_a_damaged_image_ends_evaluation_by_name(folder):
    source = open_source(f"folder:{folder}", "train")
    truncate(folder / "cat" / "3.jpg")
    with pytest.raises(InputError, match="cat/3.jpg: cannot be read as an image"):
        list(eval_batches(source, parse("resize(16)"), batch_size=10))


def test_an_image_of_one_pixel_is_cropped_or_refused_by_name(folder):
    source = open_source(f"folder:{folder}", "train")
    Image.new("L", (1, 1), 9).save(folder / "cat" / "3.jpg")
    found = take(source, "inception_crop(16)|flip_lr", 2, batch_size=10)
    assert np.all(found["image"][found["index"] == 3] == 9)
    with pytest.raises(InputError, match="cat/3.jpg: the image is smaller than central_crop"):
        list(eval_batches(source, parse("central_crop(16)"), batch_size=10))


def test_a_file_that_went_away_is_named(folder):
    source = open_source(f"folder:{folder}", "train")
    (folder / "cat" / "3.jpg").unlink()
    with pytest.raises(InputError, match="cat/3.jpg: no such file"):
        list(eval_batches(source, parse("resize(16)"), batch_size=10))


def test_load_images(folder, tmp_path):
    paths = [str(folder / "cat" / "0.jpg"), str(folder / "dog" / "1.jpg")]
    found = load_images(paths, parse("resize(24)|random_crop(20)|flip_lr"))
    assert found.shape == (2, 20, 20, 3) and found.dtype == np.uint8
    middle = load_images(paths, parse("resize(24)"))[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(found, middle)
    with pytest.raises(InputError, match="nothing.png: no such file"):
        load_images(["nothing.png"], parse("resize(8)"))
    (tmp_path / "bad.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="bad.png: cannot be read"):
        load_images([str(tmp_path / "bad.png")], parse("resize(8)"))
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="small.png is 9x9"):
        load_images([paths[0], str(tmp_path / "small.png")], parse("decode"))

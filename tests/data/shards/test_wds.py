"""wds: reads what the webdataset package wrote, and the same batches as folder:."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import check_unchanged, eval_batches, open_source, parse, train_batches
from vit_jax.data.sources import cache
from vit_jax.data.sources.shards import index, storage
from vit_jax.errors import InputError

HERE = Path(__file__).parent
WRITTEN = HERE / "pets-train-000.tar"  # by TarWriter of webdataset 1.0.2
PP = "resize(12)|random_crop(8)"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def take(source, count, **options):
    batches = train_batches(source, parse(PP), batch_size=6, seed=3, **options)
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_tar_of_the_webdataset_package():
    """Names, labels and bytes are as `tarfile` reads them."""
    source = open_source(f"wds:{WRITTEN}", "train")
    with tarfile.open(WRITTEN) as tar:
        held = {member.name: tar.extractfile(member).read() for member in tar}
    assert source.size == 6 and source.label_names == ["0", "1", "2"]
    images = dict(zip(source.file_names(), source.fetch(np.arange(6))))
    assert images == {n: held[n] for n in held if n.endswith(("jpg", "png"))}
    for name, label in zip(source.file_names(), source.labels(np.arange(6))):
        assert label == int(held[f"{name[:-4]}.cls"])
    batch = next(iter(eval_batches(source, parse("decode|central_crop(16)"), batch_size=6)))
    for name, pixels in zip(source.file_names(), batch["image"]):
        expected = np.asarray(Image.open(io.BytesIO(held[name])).convert("RGB"))
        np.testing.assert_array_equal(pixels, expected[:, 4:20])


def test_the_label_may_be_a_field_of_the_json():
    source = open_source(f"wds:{WRITTEN}?label=name", "train")
    assert source.label_names == ["Abyssinian", "beagle", "pug"]
    by_number = open_source(f"wds:{WRITTEN}", "train")
    np.testing.assert_array_equal(source.targets, by_number.targets)


@pytest.mark.parametrize("where", ["train-{00..02}.tar", "train-*.tar", ""])
def test_batches_are_those_of_the_folder(shards, folder, where):
    source = open_source(f"wds:{shards}/{where}", "train")
    assert source.label_names == ["cat", "dog"]
    assert_same(take(source, 5), take(open_source(f"folder:{folder}", "train"), 5))


def test_slices_are_those_of_the_folder(shards, folder):
    for split in ("train[:70%]", "train[70%:]"):
        source = open_source(f"wds:{shards}", split)
        assert_same(take(source, 2), take(open_source(f"folder:{folder}", split), 2))


def test_evaluation_is_that_of_the_folder(shards, folder):
    found = [
        list(eval_batches(open_source(name, "train"), parse(PP), batch_size=8))
        for name in (f"wds:{shards}", f"folder:{folder}")
    ]
    assert_same(*found)


def test_a_resumed_run_goes_on_with_the_same_batches(shards):
    whole = take(open_source(f"wds:{shards}", "train"), 6)
    assert_same(take(open_source(f"wds:{shards}", "train"), 2, start_step=4), whole[4:])


def test_two_processes_read_what_one_reads(shards):
    source = open_source(f"wds:{shards}", "train")
    parts = [take(source, 3, rows=np.arange(6)[half::2]) for half in range(2)]
    whole = take(source, 3)
    for half, part in enumerate(parts):
        assert_same(part, [{name: x[half::2] for name, x in batch.items()} for batch in whole])


def test_another_way_to_cut_shards_changes_nothing(shards, folder, tmp_path, write_tar):
    both = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            both += [(member.name, tar.extractfile(member).read()) for member in tar]
    one = write_tar(tmp_path / "train.tar", both)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    first, second = (open_source(f"wds:{p}", "train") for p in (shards, one))
    assert_same(take(first, 3), take(second, 3))
    assert first.fingerprint() == second.fingerprint()


def test_the_fingerprint_sees_another_picture_of_the_same_size(tmp_path, write_tar, encode):
    def written(value):
        image = encode(np.full((8, 8, 3), value, np.uint8), "BMP")
        path = write_tar(tmp_path / "a.tar", [("a.bmp", image), ("a.cls", b"0")])
        return open_source(f"wds:{path}", "train")

    before = written(1).fingerprint()
    check_unchanged(written(1), before, "then")
    with pytest.raises(InputError, match="has changed since then"):
        check_unchanged(written(2), before, "then")


def test_splits_come_from_names_and_folders(tmp_path, write_tar, encode):
    image = encode(np.zeros((4, 4, 3), np.uint8), "PNG")

    def examples(*labels):
        return [x for i, y in enumerate(labels) for x in ((f"{i}.png", image), (f"{i}.cls", y))]

    (tmp_path / "in" / "val").mkdir(parents=True)
    (tmp_path / "in" / "train").mkdir()
    for root, names in (
        (tmp_path, ("pets-train-0.tar", "pets-validation-0.tar")),
        (tmp_path / "in", ("train/0.tar", "val/0.tar")),
    ):
        write_tar(root / names[0], examples(b"2", b"10", b"1"))
        write_tar(root / names[1], examples(b"10"))
    validation = open_source(f"wds:{tmp_path}/pets-*.tar", "validation")
    val = open_source(f"wds:{tmp_path}/in", "val")
    for source in (validation, val):
        assert source.label_names == ["1", "2", "10"] and list(source.targets) == [2]
    assert open_source(f"wds:{tmp_path}/in", "all").size == 4
    with pytest.raises(InputError, match="unknown split 'test' of "):
        open_source(f"wds:{tmp_path}/in", "test")
    write_tar(tmp_path / "in" / "val" / "1.tar", examples(b"7"))
    with pytest.raises(InputError, match="class '7' is in val but not in train"):
        open_source(f"wds:{tmp_path}/in", "train")
    write_tar(tmp_path / "extra.tar", examples(b"7"))
    with pytest.raises(InputError, match="extra.tar tells no split, as those of others do"):
        open_source(f"wds:{tmp_path}/{{pets-train-0,extra}}.tar", "train")


def test_labels_are_taken_of_cls_then_json_then_txt(tmp_path, write_tar, encode):
    image = encode(np.zeros((4, 4, 3), np.uint8), "PNG")
    path = write_tar(
        tmp_path / "a.tar",
        [("./a.txt", b"a long caption"), ("./a.json", b'{"label": "dog"}'), ("./a.png", image),
         ("./a.cls", b"cat"), ("b.png", image), ("b.txt", b"ant\n"), ("b.json", b'{"x": 1}'),
         ("c.json", b'{"label": "dog"}'), ("c.PNG", image), ("d.txt", b"no image"),
         ("._e.png", image)],
    )  # fmt: skip
    source = open_source(f"wds:{path}", "train")
    found = dict(zip(source.file_names(), source.targets))
    assert source.label_names == ["ant", "cat", "dog"]
    assert found == {"a.png": 1, "b.png": 0, "c.PNG": 2}


def info(tmp_path, **split):
    facts = dict(name="train", filenames=["a.tar"], num_samples=2, shard_lengths=[2])
    (tmp_path / "_info.json").write_text(
        json.dumps(dict(class_names=["ant", "bee", "cow"], splits=dict(train=facts | split)))
    )


def test_info_json(tmp_path, write_tar, encode):
    image = encode(np.zeros((4, 4, 3), np.uint8), "PNG")
    path = write_tar(
        tmp_path / "a.tar",
        [("a.png", image), ("a.json", b'{"kind": 2}'), ("b.png", image), ("b.json", b'{"kind":0}')],
    )
    info(tmp_path, alt_label="kind")
    source = open_source(f"wds:{tmp_path}", "train")
    assert source.label_names == ["ant", "bee", "cow"] and list(source.targets) == [0, 2]
    info(tmp_path, alt_label="kind", shard_lengths=[3])
    with pytest.raises(InputError, match="a.tar holds 2 examples; _info.json says 3"):
        open_source(f"wds:{path}", "train")
    info(tmp_path, alt_label="kind", num_samples=5)
    with pytest.raises(InputError, match="split train holds 2 examples; _info.json says 5"):
        open_source(f"wds:{path}", "train")


def test_an_index_is_made_once(shards, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 1)
    first = take(open_source(f"wds:{shards}", "train"), 1)
    assert len(os.listdir(shards / ".vit_jax")) == 3

    def refuse(*args):
        raise AssertionError("the shard is indexed again")

    monkeypatch.setattr(index, "_table", refuse)
    assert_same(take(open_source(f"wds:{shards}", "train"), 1), first)
    os.utime(shards / "train-00.tar")
    with pytest.raises(AssertionError):
        open_source(f"wds:{shards}", "train")


def test_a_shard_that_changes_under_a_run(shards, tmp_path):
    source = open_source(f"wds:{shards}", "train")
    path = shards / "train-00.tar"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:1000] + bytes(len(content) - 1000))
    with pytest.raises(InputError, match="is not where the index says; the file has changed"):
        source.fetch(np.arange(source.size))


def test_a_damaged_picture_is_named_and_replaced(tmp_path, write_tar, encode, caplog):
    good = encode(np.zeros((30, 30, 3), np.uint8), "JPEG")
    members = [x for i in range(20) for x in ((f"{i}.jpg", good), (f"{i}.cls", b"0"))]
    members[0] = ("0.jpg", good[: len(good) // 2])
    members[2] = ("1.jpg", b"<html>")
    path = write_tar(tmp_path / "a.tar", members)
    source = open_source(f"wds:{path}", "train")
    batches = train_batches(source, parse("resize(8)"), batch_size=20, seed=0)
    assert not {0, 1} & set(next(batches)["index"]) and batches.skipped >= 2
    batches.close()
    assert f"0.jpg of {path}: cannot be read as an image: truncated" in caplog.text
    assert f"1.jpg of {path}: holds HTML" in caplog.text


def test_sets_of_classes_and_mixtures(shards, folder):
    source = open_source(f"wds:{shards}", "train", multi_label=True)
    np.testing.assert_array_equal(source.labels(np.array([0, 19])), [[1, 0], [0, 1]])
    mixture = open_source(f"mix:wds:{shards}/train-*.tar*0.5+folder:{folder}*0.5", "train")
    assert mixture.size == 40 and mixture.label_names == ["cat", "dog"]


def test_training_images_in_an_evaluation_are_counted(shards):
    train = open_source(f"wds:{shards}", "train[:50%]")
    assert train.shared(open_source(f"wds:{shards}", "train[50%:]")) == 0
    assert train.shared(open_source(f"wds:{shards}", "train")) == 10


@pytest.fixture
def memory(shards):
    """The shards in fsspec's file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for path in shards.iterdir():
        files.pipe(f"/bucket/pets/{path.name}", path.read_bytes())
    yield files
    files.rm("/bucket", recursive=True)


@pytest.mark.parametrize("where", ["train-{00..02}.tar", "train-0?.tar", ""])
def test_addresses_are_read_as_disks(memory, shards, where, tmp_path):
    name = f"wds:memory://bucket/pets/{where}"
    source = open_source(name, "train", cache_dir=str(tmp_path / "kept"))
    local = open_source(f"wds:{shards}", "train")
    assert source.label_names == ["cat", "dog"]
    assert source.fingerprint() == local.fingerprint()
    assert_same(take(source, 3), take(local, 3))
    assert len(os.listdir(tmp_path / "kept")) == 3


def test_remote_reads_are_of_parts_and_few_at_a_time(memory, tmp_path, monkeypatch):
    import threading

    kept = str(tmp_path / "kept")
    open_source("wds:memory://bucket/pets", "train", cache_dir=kept)
    source = open_source("wds:memory://bucket/pets", "train", cache_dir=kept)
    sizes, threads, cat = [], set(), memory.cat_file

    def counted(path, start=None, end=None, **options):
        sizes.append(end - start)
        threads.add(threading.get_ident())
        return cat(path, start=start, end=end, **options)

    monkeypatch.setattr(memory, "cat_file", counted)
    source.fetch(np.arange(source.size))
    assert sorted(sizes) == sorted(source.file_sizes)
    assert len(threads) <= storage.AT_ONCE


def test_a_failing_store_is_asked_again(memory, monkeypatch):
    source = open_source("wds:memory://bucket/pets", "train")
    cat, failures = memory.cat_file, [ConnectionError("reset"), TimeoutError("slow")]

    def flaky(path, **options):
        if failures:
            raise failures.pop()
        return cat(path, **options)

    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(memory, "cat_file", flaky)
    assert len(source.fetch(np.arange(1))[0]) == source.file_sizes[0] and not failures
    failures += [ConnectionError("reset\nby peer")] * 3
    with pytest.raises(InputError, match="pets/train-0.*: cannot be read: .*reset"):
        source.fetch(np.arange(1))


def test_formats_beside_jpeg(tmp_path, write_tar):
    image = Image.effect_noise((20, 10), 80)
    kinds = [("a", "TIFF", "tif"), ("b", "AVIF", "avif"), ("c", "WEBP", "webp")]
    members = []
    for key, kind, ending in kinds:
        held = io.BytesIO()
        image.convert("RGB").save(held, kind, quality=100)
        members += [(f"{key}.{ending}", held.getvalue()), (f"{key}.cls", b"0")]
    source = open_source(f"wds:{write_tar(tmp_path / 'a.tar', members)}", "train")
    found = next(iter(eval_batches(source, parse("decode|resize((10, 20))"), batch_size=3)))
    assert found["mask"].all() and found["image"].shape == (3, 10, 20, 3)

import os

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.data.sources import cache


@pytest.fixture(autouse=True)
def small_tables_are_kept_too(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "SMALL", 1)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return dict(rows=np.arange(5) + self.calls)


def files(path) -> list[str]:
    return [name for _, _, names in os.walk(path) for name in names]


def test_a_table_is_made_once(tmp_path):
    make = Maker()
    for _ in range(2):
        found = cache.table("x", str(tmp_path), "", b"key", make)
        np.testing.assert_array_equal(found["rows"], np.arange(5) + 1)
    assert make.calls == 1 and len(files(tmp_path / ".vit_jax")) == 1


def test_another_key_makes_it_again(tmp_path):
    make = Maker()
    cache.table("x", str(tmp_path), "", b"key", make)
    found = cache.table("x", str(tmp_path), "", b"other", make)
    assert make.calls == 2 and found["rows"][0] == 2
    assert len(files(tmp_path)) == 1  # in the place of the old one


def test_tables_of_other_names_stay(tmp_path):
    """Those of training and evaluation files in one folder, say."""
    make = Maker()
    for name in ("train", "validation", "train", "validation"):
        cache.table("x", str(tmp_path), name, b"key", make)
    assert make.calls == 2


def test_small_tables_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 100)
    cache.table("x", str(tmp_path), "", b"key", Maker())
    assert not files(tmp_path)


def test_a_chosen_folder(tmp_path):
    chosen = tmp_path / "deep" / "cache"
    cache.table("x", str(tmp_path / "data"), "", b"key", Maker(), str(chosen))
    assert len(files(chosen)) == 1 and not (tmp_path / "data").exists()


def test_the_home_folder_where_the_datas_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")  # a file is no folder to write to
    make = Maker()
    for _ in range(2):
        cache.table("x", str(blocked), "", b"key", make)
    assert make.calls == 1 and len(files(tmp_path / "home" / ".cache" / "vit_jax")) == 1


def test_an_address_is_no_folder_to_write_to(tmp_path, monkeypatch):
    make = Maker()
    for folder in ("one", "two"):  # the key does not depend on where the run starts
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        cache.table("x", "gs://bucket/data", "", b"key", make)
        assert not files(tmp_path / folder)
    assert make.calls == 1 and len(files(tmp_path / "home" / ".cache" / "vit_jax")) == 1


def test_a_full_disk_gives_one_clear_line(tmp_path, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    found = cache.table("index", str(tmp_path), "", b"key", Maker(), str(tmp_path / "full"))
    np.testing.assert_array_equal(found["rows"], np.arange(5) + 1)
    (record,) = caplog.records
    assert "No space left on device" in record.message and "data.cache_dir" in record.message
    assert "\n" not in record.message
    assert not files(tmp_path)  # nor a half-written file


@pytest.mark.parametrize("rubbish", [b"", b"PK\x03\x04 rubbish", b"x" * 100])
def test_a_damaged_file_is_made_again(tmp_path, rubbish):
    make = Maker()
    cache.table("x", str(tmp_path), "", b"key", make)
    (path,) = (tmp_path / ".vit_jax").iterdir()
    path.write_bytes(rubbish)
    cache.table("x", str(tmp_path), "", b"key", make)
    assert make.calls == 2


def listed(folder) -> list[bytes]:
    source = open_source(f"folder:{folder}", "train")
    return list(source.fetch(np.arange(source.size)))


def test_the_list_of_a_folder_is_kept_until_a_class_folder_changes(folder, monkeypatch):
    first = listed(folder)
    from vit_jax.data.sources import folder as module

    monkeypatch.setattr(module, "_listed", None)  # would fail if called
    assert listed(folder) == first
    monkeypatch.undo()
    (folder / "cat" / "new.jpg").write_bytes(b"x")
    assert len(listed(folder)) == len(first) + 1
    (folder / "cat" / "new.jpg").unlink()
    assert listed(folder) == first

"""Files of JSON lines: damaged lines are set aside with a word, and cost no run."""

import os

import pytest

from vit_jax import jsonl
from vit_jax.errors import InputError
from vit_jax.train.log.clock import Clock
from vit_jax.train.log.goodput import Goodput
from vit_jax.train.log.metrics import LogOptions, MetricsLog

DAMAGE = [
    b"\xff",
    b"{}",
    b"null",
    b"[1]",
    b"3",
    b'{"step": "x", "start": 1}',
    b'{"step": null, "start": [1], "loss": 1}',
    b'{"step": 1, "start": 1, "loss": [], "wall": 1, "seconds": []}',
    b'{"step": 1, "start": 1, "loss": "1", "wall": 1, "seconds": {"step": "1"}}',
    b'{"step": 1e29, "start": 1, "wall": 1, "seconds": {}}',
    b'{"step": 1, "start": 1, "loss": 1e999, "wall": 1e999, "seconds": {}}',
    b'{"step": 1' + b"0" * 30 + b', "start": 1, "wall": 1, "seconds": {}}',
    b"[" * 100_000,
    b'{"step": 1, "lo',
]
GOOD = {
    "metrics.jsonl": b'{"step": 1, "loss": 0.5}',
    "goodput.jsonl": b'{"start": 1, "step": 1, "wall": 2.0, "seconds": {"step": 1.0}}',
}


def open_log(name, folder, write):
    if name == "metrics.jsonl":
        return MetricsLog(folder, LogOptions(tensorboard=False), step=1, write=write)
    return Goodput(folder, Clock(), write=write)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_set_aside_with_a_word(name, damage, tmp_path, caplog):
    content = damage + b"\n" + GOOD[name] + b"\n"
    (tmp_path / name).write_bytes(content)
    open_log(name, tmp_path, write=False).close()
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == content
    log = open_log(name, tmp_path, write=True)
    assert (tmp_path / f"{name}.damaged").read_bytes() == damage + b"\n"
    assert f"{name}: damaged lines are left out; kept in {name}.damaged: line 1: " in caplog.text
    assert (tmp_path / name).read_bytes().startswith(GOOD[name] + b"\n")
    if name == "goodput.jsonl":
        assert log.reached == 1 and log.summary()["starts"] == 2
    else:
        assert log.last == {"step": 1, "loss": 0.5}
    log.close()


@pytest.mark.parametrize("name", GOOD)
def test_a_directory_in_place_of_the_file_is_moved(name, tmp_path, caplog):
    for _ in range(2):
        (tmp_path / name).mkdir()
        open_log(name, tmp_path, write=True).close()
        assert (tmp_path / name).is_file()
        (tmp_path / name).unlink()
    assert sorted(os.listdir(tmp_path)) == [f"{name}.damaged", f"{name}.damaged1"]
    assert f"{tmp_path / name} is a directory" in caplog.text


@pytest.mark.parametrize("open_file", [jsonl.Appender, lambda path: jsonl.replace(path, [])])
def test_a_file_that_cannot_be_written_is_one_line(open_file, tmp_path):
    """A disk without inodes refuses in the same place."""
    with pytest.raises(InputError, match="cannot write .*No such file or directory"):
        open_file(tmp_path / "gone" / "metrics.jsonl")

"""Disks that are full, read-only or gone: a real file system of a few megabytes."""

import logging
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.checkpoint import aftermath, manager, stored
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.errors import InputError, NotSavedError

SMALL, TOO_LARGE = 10_000, 1_000_000  # elements of four bytes that do not compress


def mount(*args):
    return subprocess.run(["mount", *args], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A mounted file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def checkpoints(disk):
    return Checkpoints(disk / "run", options())


def options(**changes):
    config = configs.default().checkpoint
    config.update(changes)
    return config


def items(step, size=SMALL):
    numbers = np.random.default_rng(step).integers(0, 2**31, size, np.int32)
    return {"params": {"x": jnp.asarray(numbers)}}


def save(checkpoints, step, size=SMALL, **how):
    return checkpoints.save(step, items(step, size), {}, {}, **how)


def steps(checkpoints):
    """All there is, so that what is left of failed saves shows."""
    return sorted(os.listdir(checkpoints.directory))


def full(checkpoints):
    """A file that leaves a few blocks: enough to begin, not to end."""
    path = checkpoints.directory.parent / "filler"
    room = os.statvfs(path.parent)
    path.write_bytes(bytes(room.f_bavail * room.f_frsize - 16_384))
    return path.unlink


def without_a_byte_left(checkpoints):
    undo = full(checkpoints)
    with (checkpoints.directory.parent / "filler").open("ab") as filler:
        try:
            while True:
                os.write(filler.fileno(), bytes(4096))
        except OSError:
            pass
    return undo


def read_only(checkpoints):
    disk = str(checkpoints.directory.parents[1])
    assert mount("-o", "remount,ro", disk)
    return lambda: mount("-o", "remount,rw", disk)


def gone(checkpoints):
    run = checkpoints.directory.parent
    run.rename(run.with_name("elsewhere"))
    return lambda: run.with_name("elsewhere").rename(run)


TROUBLES = {
    full: "No space left|RESOURCE_EXHAUSTED",
    without_a_byte_left: "No space left",
    read_only: "Read-only file system",
    gone: "No such file or directory",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_saves_that_fail_cost_nothing_but_themselves(trouble, checkpoints, caplog):
    assert save(checkpoints, 1, wait=True) and save(checkpoints, 2, wait=True)
    end = trouble(checkpoints)
    for step in (3, 4):
        begun = save(checkpoints, step)
        assert not (checkpoints.wait() and begun)
    assert checkpoints.failures == 2 and checkpoints.latest() == 2
    lines = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    lines = [line for line in lines if line.startswith("the checkpoint of step")]
    assert len(lines) == 2 and "the checkpoint of step 4 was not written: " in lines[1]
    assert any(text in lines[1] for text in TROUBLES[trouble].split("|"))
    end()
    # A thread of a failed save may still write once there is room.
    (checkpoints.directory / "4.orbax-checkpoint-tmp").mkdir(exist_ok=True)
    assert save(checkpoints, 5, wait=True)
    assert steps(checkpoints) == ["2", "5"]
    checkpoints.close()


def test_a_disk_that_fills_in_the_middle_of_a_save(checkpoints, caplog):
    """Noticed by the next save, which goes on with room or without."""
    assert save(checkpoints, 1)
    assert save(checkpoints, 2, TOO_LARGE)  # under way
    assert save(checkpoints, 3) and checkpoints.failures == 1
    assert checkpoints.wait()
    assert steps(checkpoints) == ["1", "3"]
    assert "step 2 was not written" in caplog.text


def test_a_save_that_the_run_waits_for_is_tried_again(checkpoints, monkeypatch):
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            end()

    end = read_only(checkpoints)
    monkeypatch.setattr(manager.time, "sleep", sleep)
    assert save(checkpoints, 1, wait=True)
    assert pauses == [1, 2] and checkpoints.failures == 2 and steps(checkpoints) == ["1"]
    end = read_only(checkpoints)
    assert not save(checkpoints, 2, wait=True)
    assert pauses[2:] == [1, 2, 4]


def test_the_run_fails_when_configured(disk):
    checkpoints = Checkpoints(disk / "run", options(max_failures=2))
    assert not save(checkpoints, 1, TOO_LARGE) or not checkpoints.wait()
    assert save(checkpoints, 2, wait=True)  # which ends the row
    assert not save(checkpoints, 3, TOO_LARGE) or not checkpoints.wait()
    save(checkpoints, 4, TOO_LARGE)
    with pytest.raises(NotSavedError, match=r"2 attempts in a row .*max_failures=2.* step 4"):
        checkpoints.close()
    assert stored.steps_in(checkpoints.directory) == [2]


def test_a_damaged_checkpoint_on_a_read_only_disk_is_passed_over(checkpoints, caplog):
    abstract = {"params": {"x": items(1)["params"]["x"]}}
    for step in (1, 2):
        assert save(checkpoints, step, wait=True)
    (checkpoints.directory / "2" / "params" / "_METADATA").unlink()
    end = read_only(checkpoints)
    again = Checkpoints(checkpoints.directory.parent, options())
    step, _ = again.restore_newest(abstract)
    assert step == again.latest() == 1
    assert "2 stays where it is: Read-only file system" in caplog.text
    assert not save(again, 2) and steps(again) == ["1", "2"]
    end()
    assert save(again, 2, wait=True)  # the damaged one makes room
    assert steps(again) == ["1", "2", "damaged"]


def test_a_new_run_on_a_read_only_disk_is_refused(checkpoints):
    read_only(checkpoints)
    with pytest.raises(InputError, match="cannot use .*Read-only file system"):
        Checkpoints(checkpoints.directory.parents[1] / "new", options())


@pytest.mark.parametrize("folder, dropped", [("orbax/checkpoint", True), ("theirs", False)])
def test_what_a_thread_of_a_failed_save_says_is_dropped(folder, dropped):
    """asyncio names no function for it, only the traceback does."""
    try:
        exec(compile("open('/no/such/file')", f"/lib/{folder}/async_path.py", "exec"))
    except OSError:
        trace = sys.exc_info()
    message = "Future exception was never retrieved\nfuture: <Future finished exception=OSError()>"
    record = logging.LogRecord("asyncio", logging.ERROR, "", 0, message, (), trace)
    assert aftermath._is_news(record) is not dropped


PROGRAM = """
import logging, sys
logging.basicConfig(format="%(message)s")
logging.getLogger("absl").setLevel(logging.CRITICAL)
import jax.numpy as jnp
from vit_jax import config as configs
from vit_jax.checkpoint.manager import Checkpoints
checkpoints = Checkpoints(sys.argv[1], configs.default().checkpoint)
for step in range(1, 4):
    arrays = {str(i): jnp.full(10_000, step) for i in range(20)}
    checkpoints.save(step, dict(params=arrays, train=dict(step=jnp.int32(step))), {}, {})
checkpoints.close()
"""


@pytest.mark.parametrize("files", [8, 12, 25])
def test_failed_saves_print_one_line_each_and_the_process_ends(files, disk):
    """Orbax's other tasks and threads would print tracebacks and wait for 20 minutes."""
    assert mount("-o", f"remount,nr_inodes={files}", str(disk))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", PROGRAM, str(disk / "run")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    *lines, last = done.stderr.split("\n")
    assert done.returncode == 0 and last == ""
    assert len(lines) == 3
    for step, line in enumerate(lines, 1):
        assert line.startswith(f"the checkpoint of step {step} was not written: ")

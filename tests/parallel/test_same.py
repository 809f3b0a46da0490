"""Two processes that were started differently end with status 2 and name the difference."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax import __version__

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--config=configs/quickstart.py:pretrain",
    "--config.model.width=32",
    "--config.model.depth=1",
    "--config.model.mlp_dim=64",
    "--config.model.num_heads=2",
    "--config.total.epochs=None",
    "--config.total.steps=4",
    "--config.optimizer.warmup.epochs=None",
    "--config.log.tensorboard=False",
    "--config.batch_size=16",
]
VERSIONED = """
import sys, vit_jax
vit_jax.__version__ = "9.9"
from vit_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
SECONDS = 30  # of the issue; of each process


def start(process, port, command, arguments, prelude=("-m", "vit_jax"), folder=ROOT):
    return subprocess.Popen(
        [sys.executable, *prelude, command, *arguments, f"--coordinator=127.0.0.1:{port}",
         "--num-processes=2", f"--process-id={process}"],
        cwd=folder,
        env=dict(
            os.environ,
            JAX_PLATFORMS="cpu",
            PYTHONPATH=str(ROOT),
            XLA_FLAGS="--xla_force_host_platform_device_count=2 " + os.environ["QUICK_XLA_FLAGS"],
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def last_lines(first, second):
    """What both processes end with, after they ended with status 2."""
    begun = time.monotonic()
    try:
        errors = [process.communicate(timeout=180)[1] for process in (first, second)]
    finally:
        first.kill()
        second.kill()
    assert [first.returncode, second.returncode] == [2, 2], errors
    assert time.monotonic() - begun < 2 * SECONDS  # on a slow machine, with imports
    assert not any("Traceback" in text for text in errors), errors
    return [text.splitlines()[-1] for text in errors]


def train(port, workdir, *others, engine="pjit", prelude=("-m", "vit_jax")):
    common = [*OPTIONS, f"--config.parallel.engine={engine}"]
    first = start(0, port, "train", [*common, f"--workdir={workdir}"])
    second = start(1, port, "train", [*common, f"--workdir={workdir}", *others], prelude)
    return last_lines(first, second)


DIFFERENCES = [
    ("--config.optimizer.learning_rate=0.5", "config.optimizer.learning_rate is 0.5 on process 1"),
    ("--config.seed=3", "config.seed is 3 on process 1 and 0 on process 0"),
    ("--config.model.width=64", "config.model.width is 64 on process 1 and 32 on process 0"),
    ("--config.total.steps=9", "config.total.steps is 9 on process 1 and 4 on process 0"),
    ("--config.batch_size=32", "config.batch_size is 32 on process 1 and 16 on process 0"),
    ("--workdir=/tmp/elsewhere", "--workdir is '/tmp/elsewhere' on process 1 and "),
]


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
@pytest.mark.parametrize("other, message", DIFFERENCES, ids=[other for other, _ in DIFFERENCES])
def test_another_option_is_named_by_both(other, message, engine, tmp_path):
    lines = train(free_port(), tmp_path / "run", other, engine=engine)
    assert lines[0] == lines[1] and message in lines[0]
    assert lines[0].endswith("start all processes alike")
    assert not (tmp_path / "run").exists()


def test_another_engine_is_named_by_both(tmp_path):
    first, second = train(free_port(), tmp_path / "run", "--config.parallel.engine=pmap")
    assert first == second
    assert "config.parallel.engine is 'pmap' on process 1 and 'pjit' on process 0" in first


def test_another_version_is_named_by_both(tmp_path):
    first, second = train(free_port(), tmp_path / "run", prelude=("-c", VERSIONED))
    assert first == second
    assert f"the version of vit_jax is '9.9' on process 1 and {__version__!r} on process 0" in first


@pytest.fixture
def hosts(tmp_path):
    """Two hosts with a folder of images each; the second has one more."""
    for host, count in (("first", 8), ("second", 9)):
        for label in ("cat", "dog"):
            folder = tmp_path / host / "images" / "train" / label
            folder.mkdir(parents=True)
            for i in range(count if label == "cat" else 8):
                pixels = np.random.default_rng([i, len(label)]).integers(0, 256, (8, 8, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "first", tmp_path / "second"


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_another_image_is_named_by_both(hosts, engine, tmp_path):
    port = free_port()
    arguments = [
        *OPTIONS,
        f"--config={ROOT}/configs/quickstart.py:pretrain",
        f"--config.parallel.engine={engine}",
        "--config.data.source=folder:images",
        "--config.data.split=train",
        "--config.data.pp=decode|resize(8)|value_range(-1, 1)",
        f"--workdir={tmp_path}/run",
    ]
    first, second = last_lines(
        *(start(i, port, "train", arguments, folder=host) for i, host in enumerate(hosts))
    )
    assert first == second
    assert "the size of the data of config.data.source is 17 on process 1 and 16 on" in first


def test_what_one_process_lacks_is_told_to_the_other(hosts, tmp_path):
    """A folder that only one host has, and a config file."""
    port = free_port()
    arguments = [
        *OPTIONS,
        f"--config={ROOT}/configs/quickstart.py:pretrain",
        "--config.data.source=folder:images",
        "--config.data.split=train",
        "--config.data.pp=decode|resize(8)|value_range(-1, 1)",
        f"--workdir={tmp_path}/run",
    ]
    places = hosts[0], tmp_path
    lines = last_lines(
        *(start(i, port, "train", arguments, folder=place) for i, place in enumerate(places))
    )
    assert all("folder:images: no such directory" in line for line in lines), lines
    assert "process 1: " in lines[0]
    (hosts[0] / "own.py").write_text("from vit_jax.config import default as get_config\n")
    port = free_port()
    arguments = ["--config=own.py", f"--workdir={tmp_path}/run"]
    lines = last_lines(
        *(start(i, port, "train", arguments, folder=place) for i, place in enumerate(places))
    )
    assert all("own.py does not exist" in line for line in lines), lines


def test_a_checkpoint_that_one_process_lacks_is_told_to_the_other(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    np.savez(tmp_path / "here" / "weights.npz", a=np.zeros(1))
    port = free_port()
    lines = last_lines(
        *(
            start(i, port, "evaluate", ["--checkpoint=weights.npz"], folder=tmp_path / place)
            for i, place in enumerate(("here", "there"))
        )
    )
    assert lines[0] == lines[1]
    assert "the presence of weights.npz is False on process 1 and True on process 0" in lines[0]

"""Paths that a user writes: ~ everywhere, no home at all, outputs that cannot be written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax import load, load_config, train
from vit_jax.cli.main import main
from vit_jax.data.sources.cache import table
from vit_jax.data.sources.opening import open_source

TINY = (
    "--config.model.width=32",
    "--config.model.depth=1",
    "--config.model.mlp_dim=32",
    "--config.model.num_heads=2",
    "--config.total.epochs=None",
    "--config.total.steps=2",
    "--config.optimizer.warmup.epochs=None",
    "--config.log.tensorboard=False",
)

pytestmark = pytest.mark.slow  # they need a trained run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a short run."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    train(load_config("configs/quickstart.py:pretrain", TINY), str(workdir))
    return workdir


@pytest.fixture
def home(run, tmp_path, monkeypatch):
    """A home folder with a run, images and a config; the working folder is another one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(run, tmp_path / "home" / "run")
    for i in range(4):
        path = tmp_path / "home" / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(path)
    (tmp_path / "home" / "names.py").write_text("")
    arrays = dict(train_images=np.zeros((2, 8, 8, 1), np.uint8), train_labels=np.arange(2))
    np.savez(tmp_path / "home" / "data.npz", **arrays)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


COMMANDS = {
    "predict": ["predict", "--checkpoint=~/run", "~/photos/a/0.png"],
    "figures": ["figures", "--checkpoint=~/run", "--image=~/photos/a/0.png", "--output=~/drawn"],
    "convert": ["convert", "~/run", "~/x.npz"],
    "evaluate": ["evaluate", "--checkpoint=~/run", "--import=~/names.py"],
    "data": ["data", "--config=configs/quickstart.py", "--sheet=~/sheet.png", "--seconds=.1"],
    "tables": ["tables", "5", "--workdir=~/tables", "--plot=~/5.png"],
    "train": ["train", "--config=configs/quickstart.py:pretrain", "--workdir=~/tuned", *TINY,
              "--config.init_from=~/run"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_home_is_expanded_in_every_argument(command, home, capsys):
    assert main(COMMANDS[command]) == 0, capsys.readouterr().err
    assert not os.listdir(home.parent / "work")
    made = {"figures": "drawn", "convert": "x.npz", "data": "sheet.png", "tables": "5.png"}
    assert (home / made.get(command, "run")).exists()


def test_home_is_expanded_in_a_profiles_folder(home, capsys):
    (home / "trace").write_text("")
    assert main(["benchmark", "--model=ViT-Ti/16", "--profile=~/trace"]) == 2
    assert str(home / "trace") in capsys.readouterr().err
    (home / "trace").unlink()
    # The folder, made before the model is looked up, is removed again.
    assert main(["benchmark", "--model=none", "--profile=~/trace"]) == 2
    assert not (home / "trace").exists() and not os.listdir(home.parent / "work")


def test_home_is_expanded_in_python_and_data_sources(home):
    assert load("~/run")[1].name
    assert open_source("folder:~/photos", "train").size == 4
    assert open_source("npz:~/data.npz", "train").size == 2
    config = load_config("configs/quickstart.py:finetune", TINY)
    config.optimizer.warmup.steps = 1
    config.init_from = "~/run"
    train(config, "~/tuned")
    config.init_from = "~/run"
    shutil.rmtree(home / "run")  # a resumed run needs it no longer
    config.total.steps = 3
    assert train(config, "~/tuned")["steps"] == 3


WITHOUT_HOME = """
import pwd, sys
def unknown(user): raise KeyError(user)
pwd.getpwuid = unknown
from vit_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_user_without_home_does_without_kept_programs(run, tmp_path):
    """As in a container with a user id that /etc/passwd does not list."""
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME, "predict", f"--checkpoint={run}", "x.png", "--json"],
        cwd=tmp_path,
        env=environment | dict(GLIBC_TUNABLES="", PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)[0]["top"]) == 5
    assert os.listdir(tmp_path) == ["x.png"]


def test_without_home_no_table_is_kept_in_a_folder_called_tilde(tmp_path, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".vit_jax").write_text("")  # beside the data nothing can be kept
    rows = dict(x=np.zeros(100_000))
    table("listing", str(tmp_path), "x", b"key", lambda: rows)
    assert os.listdir(tmp_path) == [".vit_jax"]


UNWRITABLE = {
    "convert": (["convert", "{run}", "/proc/x.npz"], "/proc/x.npz cannot be written"),
    "convert below a device": (["convert", "{run}", "/dev/null/x.npz"], "/dev/null is no folder"),
    "convert below a file": (["convert", "{run}", "{file}/x.npz"], "cannot be written"),
    "figures": (["figures", "--checkpoint={run}", "--output={file}"], "File exists"),
    "figures in proc": (["figures", "--checkpoint={run}", "--output=/proc/x"], "cannot be written"),
    "tables": (["tables", "5", "--workdir={file}"], "no folder"),
    "tables below": (["tables", "5", "--workdir=/dev/null/x"], "/dev/null is no folder"),
    "plot": (["tables", "5", "--plot=/proc/x.png"], "/proc/x.png: cannot be written"),
    "plot a folder": (["tables", "5", "--plot={folder}"], "it is a folder"),
    "sheet": (["data", "--config=configs/quickstart.py", "--sheet={folder}"], "it is a folder"),
    "profile": (["benchmark", "--model=ViT-Ti/16", "--profile={file}"], "File exists"),
    "workdir": (["train", "--config=configs/quickstart.py", "--workdir={file}"], "as workdir"),
    "workdir below": (["train", "--config=configs/quickstart.py", "--workdir=/dev/null/x"],
                      "as workdir: Not a directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNWRITABLE)
def test_an_output_that_cannot_be_written_is_one_line_before_the_work(
    case, run, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("kept")
    words, message = UNWRITABLE[case]
    places = dict(run=run, file=tmp_path / "file", folder=tmp_path)
    monkeypatch.setattr("vit_jax.checkpoint.read_weights", None)  # the work of convert
    monkeypatch.setattr("vit_jax.figures.draw.load", None)
    assert main([word.format(**places) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("target", ["x.npz", "x.safetensors", "folder", "x.stablehlo"])
def test_nothing_is_left_of_what_did_not_fit_on_the_disk(target, run, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        status = main(["convert", str(run), str(tmp_path / target)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert status == 2 and "cannot be written" in capsys.readouterr().err.splitlines()[-1]
    assert not os.listdir(tmp_path)
    assert main(["convert", str(run), str(tmp_path / target)]) == 0

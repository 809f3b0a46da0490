"""Every argument of every command with a value that is wrong: one line, status 2, nothing made.

The arguments come from the commands' own parsers, so that a new one is tried, too: paths are the
arguments that expand `~`, numbers those that argparse converts.
"""

import argparse
import importlib
import os

import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from vit_jax.cli.main import COMMANDS, main
from vit_jax.data.sources.cache import table
from vit_jax.models import identify, model_config
from vit_jax.train.config import every_option
from vit_jax.weights import Weights, write
from vit_jax.weights.record import parameter_shapes

CONFIG = """
from vit_jax.config import default

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/8", width=32, depth=1, mlp_dim=32, num_heads=2)
    config.batch_size = 16
    config.total.steps = 2
    config.data.update(source="digits", pp="resize(16)|value_range(-1, 1)")
    config.log.tensorboard = False
    return config
"""
# Commands that are right; an argument under test is added, or takes the place of its value.
RIGHT = {
    "train": ["--config={config}", "--workdir={new}/run"],
    "finetune": ["{weights}", "digits", "--workdir={new}/run"],
    "soup": ["{weights}", "{weights}", "{new}/soup.npz"],
    "evaluate": ["--checkpoint={weights}", "--source=digits", "--split=train[:16]"],
    "fewshot": ["--checkpoint={weights}", "--source=digits", "--train=train", "--test=train"],
    "probe": ["--checkpoint={weights}", "--source=digits", "--train=train", "--test=train"],
    "predict": ["--checkpoint={weights}", "{image}"],
    "generate": ["--checkpoint={pixels}", "{image}", "--samples=1", "--output={new}/drawn"],
    "figures": ["--checkpoint={weights}", "--image={image}", "--output={new}/figures"],
    "convert": ["{weights}", "{new}/x.npz"],
    "push": ["{weights}", "owner/name", "--dry-run"],
    "report": ["{old}/run", "--no-evaluate", "--output={new}/report.html"],
    "config": ["{config}"],
    "data": ["--config={config}", "--seconds=0.01"],
    "plan": ["--config={config}"],
    "tables": ["5"],
    "benchmark": ["--model=ViT-Ti/16", "--batch=8"],
    "models": [],
    "doctor": [],
    "completion": ["bash"],
}
# What else a command needs for an argument to be read.
ALSO = {
    "--labels": ["--protocol=real"],
    "--data-dir": ["--source=tfds:cifar10"],
    "--config.data.data_dir=": ["--config.data.source=tfds:cifar10"],
    "--slices": ["--topology=v5e:2x2"],
    "--slice-bandwidth": ["--topology=v5e:2x2", "--slices=2", "--config.parallel.replica=2"],
    "--host-cores": ["--images-per-core=100"],
    "--restart": ["--mtbf=100"],
    "--compile": ["--search"],
    "--write": ["--search", "--compile=0"],
    "--k": ["--method=knn"],
    "--temperature": ["--method=knn"],
}
# The positional arguments' places in RIGHT.
POSITIONS = dict(
    workdirs=0, images=1, weights=0, data=1, source=0, runs=0, target=-1, number=0, what=0
)
LARGE = "1" + 30 * "0"
OUTPUTS = ("--workdir", "--output", "target", "--sheet", "--plot", "--profile", "--attention-map",
           "--embeddings", "--confusion", "--worst", "--write", "--save")  # fmt: skip
# Outputs that are files, in a folder that exists.
FILES = ("--sheet", "--plot", "--embeddings", "--confusion", "--write", "--save")
# Options of the config that name a place, and the commands that read them.
PLACES = ["--config.init_from=", "--config.data.source=folder:", "--config.data.source=npz:",
          "--config.data.data_dir="]  # fmt: skip
READERS = {"train": PLACES, "data": PLACES[1:]}
# What a number may be, though few would write it.
MAY_BE = [
    ("fewshot", "--l2", "0"),
    ("fewshot", "--l2", LARGE),
    ("probe", "--c", LARGE),
    ("probe", "--temperature", LARGE),
    ("predict", "--threshold", "0"),
    ("generate", "--keep", "0"),
    ("generate", "--temperature", "0"),
    ("generate", "--temperature", LARGE),
    ("generate", "--top-k", "0"),
    ("generate", "--seed", "0"),
    ("plan", "--compile", "0"),
    ("benchmark", "--cpu-devices", "0"),
    ("benchmark", "--cpu-devices", "-1"),
    ("benchmark", "--unroll", "0"),
    ("benchmark", "--unroll", "-1"),
]

READ = {
    "missing": "{old}/missing",
    "a folder": "{old}/folder",
    "below a file": "{old}/text/x",
    "empty": "{old}/empty",
    "random bytes": "{old}/bytes",
    "unreadable": "{old}/unreadable",
    "escapes": "{old}/a\n\x1b[31mb",
}
WRITTEN = {"below a file": "{old}/text/x", "below a device": "/dev/null/x"}
WRITTEN_FILES = WRITTEN | {"a folder": "{old}/folder", "escapes": "{old}/a\n\x1b[31mb/x.png"}
NUMBERS = ["-1", "0", LARGE, "nan", "inf", "text", ""]


def actions(command):
    """The arguments of a command, by name, as argparse keeps them."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"{COMMANDS[command][0]}.{command}").add_arguments(parser)
    return {
        action.option_strings[0] if action.option_strings else action.dest: action
        for action in parser._actions
    }


def arguments(command):
    """The arguments of a command that name a path, and those that are numbers."""
    paths, numbers = ["--import"], []
    for name, action in actions(command).items():
        if action.type is os.path.expanduser:
            paths.append(name)
        elif action.type is not None:
            numbers.append(name)
    return paths, numbers


def cases():
    for command in COMMANDS:
        paths, numbers = arguments(command)
        for name in paths:
            values = WRITTEN_FILES if name in FILES else WRITTEN if name in OUTPUTS else READ
            for kind, value in values.items():
                yield command, name, kind, value
            if name in ("--checkpoint", "source"):
                for ending in ("npz", "safetensors", "pth"):
                    for kind in ("empty", "bytes"):
                        yield command, name, f"{kind}.{ending}", f"{{old}}/{kind}.{ending}"
        for name in numbers:
            for value in NUMBERS:
                if (command, name, value) not in MAY_BE:
                    yield command, name, value, value
        for name in READERS.get(command, ()):
            for kind, value in READ.items():
                yield command, name, kind, value


CASES = list(cases())
IDS = ["-".join(repr(part)[1:-1] for part in case[:3]) for case in CASES]


def make_places(tmp):
    """Right and wrong files below `old`; commands may write to `new`."""
    old, new = tmp / "old", tmp / "new"
    for folder in (old / "folder", new):
        folder.mkdir(parents=True)
    (old / "text").write_text("text")
    for ending in ("", ".npz", ".safetensors", ".pth"):
        (old / f"empty{ending}").write_bytes(b"")
        (old / f"bytes{ending}").write_bytes(np.random.default_rng(0).bytes(1000))
    # Even the superuser cannot read this one: its first address holds nothing.
    (old / "unreadable").symlink_to("/proc/self/mem")
    (old / "config.py").write_text(CONFIG)
    (old / "run").mkdir()
    (old / "run/metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    Image.new("L", (16, 16)).save(old / "image.png")
    config = model_config(
        "ViT-Ti/8", width=32, num_heads=2, depth=1, mlp_dim=32, image_size=16, num_classes=10
    )
    shapes = parameter_shapes(config)
    params = {path: np.full(shape, 0.1, np.float32) for path, shape in shapes.items()}
    name, options = identify(config)
    tree = traverse_util.unflatten_dict(params, sep="/")
    weights = Weights(name=name, options=options, params=tree, pp="resize(16)")
    write(weights, old / "weights.npz")
    small = dict(width=16, depth=1, mlp_dim=16, num_heads=2, palette=4, image_size=4, num_classes=0)
    pixels = parameter_shapes(model_config("iGPT-S", **small))
    params = {path: np.full(shape, 0.1, np.float32) for path, shape in pixels.items()}
    tree = traverse_util.unflatten_dict(params, sep="/")
    pp = "resize(4)|value_range(-1, 1)"
    write(Weights(name="iGPT-S", options=small, params=tree, pp=pp), old / "pixels.npz")
    return dict(
        old=old,
        new=new,
        config=old / "config.py",
        image=old / "image.png",
        weights=old / "weights.npz",
        pixels=old / "pixels.npz",
    )


def tree(folder):
    """What a folder holds: names, sizes and times of files, names of folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        is_folder = path.is_dir() and not path.is_symlink()
        found[str(path)] = None if is_folder else (about.st_size, about.st_mtime_ns)
    return found


def words(command, name, value, places):
    """The arguments of a command, right but for one."""
    also = [] if command == "generate" else ALSO.get(name, [])
    right = [*RIGHT[command], *also]
    if not name.startswith("--"):
        place = POSITIONS[name]
        right[place] = value
        right = [*right[:place], "--", *right[place:]] if value.startswith("-") else right
    elif name.startswith("--config."):
        right = [*right, name + value]
    else:
        right = [word for word in right if not word.startswith(f"{name}=")] + [f"{name}={value}"]
    return [command, *(word.format(**places) for word in right)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return make_places(tmp_path_factory.mktemp("places"))


@pytest.mark.parametrize("command, name, kind, value", CASES, ids=IDS)
def test_a_wrong_value_is_one_line_and_nothing_is_made(command, name, kind, value, places, capsys):
    folder = places["old"].parent
    before = tree(folder)
    assert main(words(command, name, value, places)) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("vit_jax: ") and line.isprintable()
    assert tree(folder) == before


# Arguments that are text, and no path. A new one is either here or expands ~.
TEXT = {
    "--coordinator", "--source", "--split", "--train", "--test", "--protocol", "--pp", "--format",
    "--set", "--resample", "--leave-out", "--topology", "--scale", "--row", "--column", "--model",
    "--mode", "--dtype", "--method", "pattern", "--tta", "--val", "--train-pp", "--layers",
    "repository", "--license", "shell", "--mtbf", "--compare", "--scaling",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_home_is_expanded_in_every_argument_that_may_be_a_path(command):
    for name, action in actions(command).items():
        if action.nargs != 0 and name not in TEXT and action.type is None:
            pytest.fail(f"{command} {name}: give it type=os.path.expanduser, or list it in TEXT")
        assert name not in TEXT or action.type is None


def test_home_is_expanded_in_every_option_that_is_a_place(places, tmp_path, monkeypatch, capsys):
    names = {one.name for one in every_option() if one.effect == "place" and one.type == "str"}
    assert names == {"data.data_dir", "data.cache_dir"}  # a new one is tried here
    monkeypatch.setenv("HOME", str(tmp_path))
    unprepared = ["--config.data.source=tfds:cifar10", "--config.data.data_dir=~/tfds"]
    assert main(["data", f"--config={places['config']}", *unprepared]) == 2
    assert f"not prepared in {tmp_path}/tfds;" in capsys.readouterr().err
    rows = dict(x=np.zeros(100_000))
    table("listing", str(places["old"]), "x", b"key", lambda: rows, cache_dir="~/kept")
    assert list((tmp_path / "kept").iterdir())


def test_every_command_is_tried():
    assert {command for command, *_ in CASES} == RIGHT.keys() == COMMANDS.keys()


def test_a_process_beyond_their_number_is_refused_before_it_waits(places, capsys):
    several = ["--coordinator=localhost:1", "--num-processes=2", "--process-id=2"]
    assert main(words("evaluate", "--data-dir", "", places) + several) == 2
    assert "process 2 of 2: --process-id counts from 0" in capsys.readouterr().err

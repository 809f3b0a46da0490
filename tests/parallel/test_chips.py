"""A platform that JAX is told to use and cannot: one line, from every command."""

import os
import subprocess
import sys

import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from vit_jax.models import identify, model_config
from vit_jax.parallel import chips
from vit_jax.weights import Weights, write
from vit_jax.weights.record import parameter_shapes


def run(platforms, *words, **variables):
    environment = dict(os.environ, JAX_PLATFORMS=platforms, **variables)
    done = subprocess.run(
        [sys.executable, "-m", "vit_jax", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr.strip().splitlines()


COMMANDS = {
    "train": ["train", "--config=configs/quickstart.py", "--workdir={tmp}/run"],
    "plan": ["plan", "--config=configs/quickstart.py"],
    "benchmark": ["benchmark", "--model=ViT-S/16", "--batch=2"],
    "predict": ["predict", "--checkpoint={tmp}/x.npz", "{tmp}/x.png"],
    "evaluate": ["evaluate", "--checkpoint={tmp}/x.npz", "--source=digits", "--split=train"],
    "fewshot": ["fewshot", "--checkpoint={tmp}/x.npz", "--source=digits"],
    "probe": ["probe", "--checkpoint={tmp}/x.npz", "--source=digits"],
    "figures": ["figures", "--checkpoint={tmp}/x.npz", "--image={tmp}/x.png"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the weights of a small model and an image."""
    tmp = tmp_path_factory.mktemp("files")
    config = model_config(
        "ViT-Ti/8", width=64, num_heads=2, depth=1, mlp_dim=8, image_size=16, num_classes=10
    )
    shapes = parameter_shapes(config)
    params = {path: np.full(shape, 0.1, np.float32) for path, shape in shapes.items()}
    name, options = identify(config)
    tree = traverse_util.unflatten_dict(params, sep="/")
    write(Weights(name=name, options=options, params=tree, pp="resize(16)"), tmp / "x.npz")
    Image.new("RGB", (16, 16)).save(tmp / "x.png")
    return tmp


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_the_accelerator_ends_with_one_line_and_status_2(command, folder):
    if chips._has_device("tpu"):
        pytest.skip("there is a TPU")
    words = [word.format(tmp=folder) for word in COMMANDS[command]]
    status, out, err = run("tpu", *words)
    assert (status, out) == (2, "")
    assert err[-1].startswith("vit_jax: JAX_PLATFORMS=tpu: JAX finds only cpu here")
    assert not any("Traceback" in line for line in err)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("command", ["models", "tables", "config"])
def test_commands_that_compute_nothing_need_no_device(command):
    words = {"models": ["models", "ViT-B/16"], "tables": ["tables", "1"], "config": ["config"]}
    assert run("tpu", *words[command])[0] == 0


@pytest.mark.parametrize(
    "platforms, devices, plugins, message",
    [
        ("cuda", (), (), "only cpu here; there is no NVIDIA GPU, and NVIDIA GPUs need pip install "
         "'vit_jax[cuda]'; unset it, or JAX_PLATFORMS=cpu computes on the CPU (cuda,cpu: where"),
        ("gpu", ("/dev/nvidia",), (), "here; NVIDIA GPUs need pip install 'vit_jax[cuda]'; unset"),
        ("tpu,cpu", (), ("libtpu",), "JAX finds only cpu here; there is no TPU; unset"),
        ("tpu", ("/dev/accel",), ("libtpu",), "JAX finds only cpu, tpu here; it broke; unset"),
        ("rocm", ("/dev/nvidia",), ("jax_cuda12_plugin",), "only cpu, cuda here; there is no AMD"),
        ("cdua", (), (), "unknown 'cdua' (did you mean 'cuda'?); JAX finds cpu here"),
        ("", (), (), "JAX finds no devices: it broke"),
    ],
)  # fmt: skip
def test_the_line_names_what_is_here_and_what_to_install(
    platforms, devices, plugins, message, monkeypatch
):
    monkeypatch.setattr(
        chips.glob, "glob", lambda pattern: [d for d in devices if pattern.startswith(d)]
    )
    monkeypatch.setattr(
        chips.importlib.util, "find_spec", lambda name: name if name in plugins else None
    )
    line = chips._explain(platforms, "it broke")
    assert message in line and "\n" not in line

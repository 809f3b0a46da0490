"""A small run on a folder of images whose class names are markup."""

import shutil

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main

CLASSES = ("<img src=x onerror=document.title=1>", "<script>document.title=2;")
CONFIG = """
from vit_jax.config import default, evaluation

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/8", width=32, depth=2, mlp_dim=32, num_heads=2)
    config.batch_size = 8
    config.total.steps = 12
    config.eval_every.steps = 4
    config.log.every = 1
    config.log.tensorboard = False
    config.data.update(source="folder:{folder}", split="train[:60%]")
    config.data.pp = "resize(32, antialias=True)|value_range(-1, 1)"
    config.checkpoint.best = "eval/test/top1"
    config.parallel.cpu_devices = 0
    with config.unlocked():
        config.evals.test = evaluation(split="train[60%:]", batch_size=8)
    return config
"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a run that is done."""
    top = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        folder = top / "photos" / name
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8) // (1 + number * (i % 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"<b>{i}.png")
    (top / "config.py").write_text(CONFIG.replace("{folder}", str(top / "photos")))
    command = ["train", f"--config={top}/config.py", f"--workdir={top}/one"]
    assert main(command) == 0
    return top / "one"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the workdir, to be damaged."""
    return shutil.copytree(finished, tmp_path / "copied")

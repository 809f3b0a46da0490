"""A tiny pre-trained run and folders of images with three colours as classes."""

import numpy as np
import pytest
from PIL import Image

from vit_jax import config as configs
from vit_jax.train.loop import train

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def write_images(folder, count, seed=0):
    """Writes `count` images of each colour, in folders named by the colours."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.integers(-40, 40, (20, 24, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """DIR/colour/image, 15 of each."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    write_images(folder, 15)
    return folder


@pytest.fixture(scope="session")
def photos_in_splits(tmp_path_factory):
    """DIR/split/colour/image, 15 and 4 of each."""
    folder = tmp_path_factory.mktemp("splits") / "photos"
    write_images(folder / "train", 15)
    write_images(folder / "val", 4, seed=1)
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """The workdir of a run of two steps on digits, at 16 pixels."""
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=2, mlp_dim=32, num_heads=2)
    config.data.pp = "resize(16)|value_range(-1, 1)"
    config.batch_size = 8
    config.total.steps = 2
    config.log.update(tensorboard=False, progress=0)
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    train(config, str(workdir))
    return workdir

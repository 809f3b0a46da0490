"""The run of two steps on digits that the tests of the Python functions use."""

import pytest

from vit_jax import config as configs
from vit_jax.train.loop import train


def small_config(steps=2):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=2, mlp_dim=32, num_heads=2)
    config.data.pp = "resize(16)|value_range(-1, 1)"
    config.batch_size = 8
    config.total.steps = steps
    config.log.update(tensorboard=False, progress=0)
    return config


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("digits") / "run"
    train(small_config(), str(workdir))
    return workdir

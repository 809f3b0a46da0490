"""Options whose course must not depend on the engine, and survive a resume."""

import json
import shutil

import jax
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.checkpoint.stored import read_params
from vit_jax.train import loop

OPTIONS = {
    "patch_dropout": {"model.patch_dropout": 0.5},
    "momo": {"optimizer.name": "momo", "optimizer.learning_rate": 0.1},
}


def tiny_config(**options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=2)
    config.data.pp = "resize(16)|value_range(-1, 1)"
    config.batch_size = 16
    config.total.steps = 4
    config.optimizer.learning_rate = 0.01
    config.log.update(every=1, tensorboard=False)
    config.checkpoint.every.steps = 1
    config.checkpoint.keep = 9
    config.update_from_flattened_dict(options)
    return config


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


@pytest.mark.parametrize("name", OPTIONS)
def test_both_engines_train_the_same_and_a_resume_gives_the_same_bits(name, tmp_path):
    for engine in ("pjit", "pmap"):
        options = OPTIONS[name] | {"parallel.engine": engine}
        loop.train(tiny_config(**options), str(tmp_path / engine))
    np.testing.assert_allclose(losses(tmp_path / "pmap"), losses(tmp_path / "pjit"), rtol=1e-4)
    assert len(set(losses(tmp_path / "pmap"))) == 4
    shutil.copytree(tmp_path / "pmap", tmp_path / "again")
    (tmp_path / "again/summary.json").unlink()
    for step in (3, 4):
        shutil.rmtree(tmp_path / f"again/checkpoints/{step}")
    loop.train(tiny_config(**options), str(tmp_path / "again"))
    states = [read_params(tmp_path / place / "checkpoints/4") for place in ("pmap", "again")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert losses(tmp_path / "again") == losses(tmp_path / "pmap")

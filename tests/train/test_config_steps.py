"""Every config trains: one step of its settings on a shrunken model."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax.config import duration
from vit_jax.config_files import load_config
from vit_jax.models import model_config
from vit_jax.train.run import Dataset, prepare

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL_VIT = dict(width=32, depth=2, mlp_dim=64, num_heads=2)


# images.py reads weights and images; its runs are in tests/cli/test_finetune.py.
NAMES = sorted(file.stem for file in CONFIGS.glob("*.py") if file.stem != "images")
ARGUMENTS = {"scratch": ":ViT-B/16,digits"}  # of configs that need one


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_every_config(name):
    config = load_config(f"{CONFIGS / name}.py{ARGUMENTS.get(name, '')}", [])
    name = config.model.name or "ViT-B/16"  # where the weights of init_from say it
    full = model_config(name, **{k: config.model[k] for k in SMALL_VIT})
    patch = full.patch_size[0]
    size = (2 * patch, 2 * patch)
    config.model.update(**SMALL_VIT, image_size=size)
    config.model.num_classes = 5 if config.task == "classify" else None
    if config.model.pre_logits:
        config.model.pre_logits = -1
    config.init_from = ""
    config.batch_size = 8
    config.total = duration(steps=100_000)
    run = prepare(config, Dataset(1000, 5, size, (0.5,) * 3, (0.5,) * 3))
    state = run.engine.init(run.create)
    batch = dict(
        image=np.random.default_rng(0).integers(0, 256, (8, *size, 3), dtype=np.uint8),
        label=np.arange(8, dtype=np.int32) % 5,
    )
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(2):  # the first has the rate 0 of a warm-up
        state, metrics = run.train_step(state, run.engine.put_batch(batch, 8))
    assert np.isfinite(float(metrics["loss"])) and float(metrics["grad_norm"]) > 0
    assert int(state.skipped) == 0
    assert any(
        (np.asarray(new) != old).any()
        for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(before), strict=True)
    )

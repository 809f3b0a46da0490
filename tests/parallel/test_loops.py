"""Whole runs, pre-training and fine-tuning, under pmap as under pjit."""

import json

import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.train import loop


def train(workdir, **options):
    """Losses of four steps on 8 devices, then those of the evaluation and its examples."""
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2, dropout=0.1)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.data.split = "train[:80%]"
    config.batch_size = 16
    config.total.steps = 4
    config.mixup.alpha = 0.2
    config.optimizer.eps = 1e-3  # else rounding decides where gradients are all but zero
    config.optimizer.ema_decay = 0.9
    config.log.update(every=1, tensorboard=False)
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]", batch_size=64, use_ema=True)
    config.update_from_flattened_dict(options)
    loop.train(config, str(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines]
    return [*losses, lines[-1]["eval/test/loss"]], lines[-1]["eval/test/examples"]


@pytest.mark.slow
def test_fine_tuning_under_both_engines_from_pre_training_under_pmap(tmp_path):
    _, seen = train(tmp_path / "before", **{"parallel.engine": "pmap"})
    options = {"init_from": str(tmp_path / "before"), "data.pp": "resize(12)|value_range(-1, 1)"}
    (losses, examples), (others, same) = (
        train(tmp_path / engine, **options, **{"parallel.engine": engine})
        for engine in ("pjit", "pmap")
    )
    assert np.isfinite(losses).all()
    assert len(losses) == 5 and examples == same == seen > 0
    np.testing.assert_allclose(losses, others, rtol=1e-5)

"""Early stopping: the run ends after `patience` evaluations without improvement, also resumed."""

import json

import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.errors import InputError
from vit_jax.train import loop
from vit_jax.train.health.early_stop import EarlyStop


def section(**options):
    config = configs.default().checkpoint
    config.update(options)
    return config


@pytest.mark.parametrize("best", ["eval/test/top1", "eval/test/loss"])
@pytest.mark.parametrize("cut", [0, 3, 7])
def test_it_counts_evaluations_since_the_best(best, cut):
    """Against the definition, with the memory passed on after `cut` evaluations."""
    values = np.random.default_rng(0).integers(0, 6, 40) / 5
    better = np.less if best.endswith("loss") else np.greater
    stop = EarlyStop(section(best=best, patience=4))
    for i, value in enumerate(values):
        if i == cut:
            memory = json.loads(json.dumps(stop.memory()))
            stop = EarlyStop(section(best=best, patience=4))
            stop.restore(memory)
        stop.see(i, {best: float(value)})
        records = [j for j in range(i + 1) if all(better(values[j], values[:j]))]
        assert stop.done == (i - records[-1] >= 4)


def test_a_metric_that_is_not_finite_is_no_improvement():
    stop = EarlyStop(section(best="eval/test/loss", patience=2))
    stop.see(1, {"eval/test/loss": float("nan")})
    stop.see(2, {})
    assert stop.done


def tiny_config(**options):
    """A run that learns nothing: the first evaluation stays the best."""
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.batch_size = 16
    config.total.steps = 40
    config.eval_every.steps = 2
    config.optimizer.learning_rate = 1e-30
    config.optimizer.schedule = "constant"
    config.log.update(every=1, tensorboard=False)
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]", batch_size=64)
    config.data.split = "train[:80%]"
    config.checkpoint.update(best="eval/test/loss", patience=3)
    config.update_from_flattened_dict(options)
    return config


def steps_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines]


def test_a_run_ends_early_and_goes_on_with_more_patience(tmp_path, caplog):
    caplog.set_level("INFO", logger="vit_jax")
    summary = loop.train(tiny_config(), str(tmp_path))
    assert summary["steps"] == 8 and steps_of(tmp_path)[-1] == 8
    assert "step 8: eval/test/loss has not improved in 3 evaluations; the run ends" in caplog.text
    assert loop.train(tiny_config(), str(tmp_path)) == summary
    assert "is done already (step 8 of 40, by early stopping)" in caplog.text
    longer = loop.train(tiny_config(**{"checkpoint.patience": 5}), str(tmp_path))
    assert longer["steps"] == 12 and steps_of(tmp_path)[-1] == 12


def test_a_resumed_run_ends_at_the_same_step(tmp_path):
    loop.train(tiny_config(**{"total.steps": 4}), str(tmp_path))
    assert loop.train(tiny_config(), str(tmp_path))["steps"] == 8


def test_patience_without_a_metric_is_refused(tmp_path):
    with pytest.raises(InputError, match="no metric is watched; set config.checkpoint.best"):
        loop.train(tiny_config(**{"checkpoint.best": ""}), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

"""Runs of models with other attention: engines, checkpoints, evaluation, figures, wrong values."""

import json
from pathlib import Path

import numpy as np
import pytest

from vit_jax.cli.main import main

ROOT = Path(__file__).parents[2]
SHORT = [
    f"--config={ROOT}/configs/quickstart.py",
    *("--config.model.depth=2", "--config.model.width=32", "--config.model.mlp_dim=32"),
    *("--config.total.epochs=None", "--config.batch_size=32"),
    *("--config.optimizer.warmup.epochs=None", "--config.optimizer.warmup.steps=0"),
    *("--config.log.every=1", "--config.log.tensorboard=False"),
]
SHARDED = [f"--config.parallel.{axis}=2" for axis in ("data", "fsdp", "tensor")]
SHARDED += ["--config.parallel.replicated_tolerance=1.0"]
PMAP = ["--config.parallel.engine=pmap"]


def train(kind, workdir, steps, *options):
    own = [f"--config.model.attention_kind={kind}", f"--config.total.steps={steps}"]
    assert main(["train", f"--workdir={workdir}", *SHORT, *own, *options]) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["halo(2, 1, relative=True)", "sparse(factors='by_layer')"])
def test_a_run_goes_on_under_the_other_engine_and_is_evaluated_and_drawn(kind, tmp_path, capfd):
    horizon = ("--config.optimizer.horizon.steps=4",)
    whole = train(kind, tmp_path / "whole", 4, *PMAP, *horizon)
    train(kind, tmp_path / "parts", 2, *SHARDED, *horizon)
    parts = train(kind, tmp_path / "parts", 4, *PMAP, *horizon)
    np.testing.assert_allclose(parts, whole, rtol=2e-4)
    capfd.readouterr()
    assert main(["evaluate", f"--checkpoint={tmp_path}/parts", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["examples"] == 359
    pytest.importorskip("matplotlib")
    draw = ["figures", f"--checkpoint={tmp_path}/parts", "--source=digits", "--split=train[:8]"]
    assert main([*draw, f"--output={tmp_path}/drawn", "--json"]) == 0
    drawn = json.loads(capfd.readouterr().out)
    assert Path(drawn["figures"]["rollout"]).exists()
    distances = np.array(drawn["distances"])
    # A grid of 4x4 patches of 4 pixels; a query sees at most 2 rows and 2 columns away.
    farthest = 4 * np.hypot(2, 2) if kind.startswith("halo") else 4 * np.hypot(1, 3)
    assert distances.shape == (2, 4) and (distances > 0).all() and (distances < farthest).all()


@pytest.mark.parametrize(
    "kind, message",
    [
        ("window(9)", "larger than the grid of 4x4 patches; give at most 7"),
        ("sparse(stride=3)", "stride 3 does not divide the 16 patches of the grid of 4x4; 4 does"),
        ("sparse(causal=True)", "causal has no place for a class token"),
        ("windw(3)", "unknown model.attention_kind 'windw(3)' (did you mean"),
    ],
)
def test_wrong_values_are_one_line_before_the_workdir_is_claimed(kind, message, tmp_path, capfd):
    workdir = tmp_path / "run"
    own = [f"--config.model.attention_kind={kind}", "--config.total.steps=2"]
    assert main(["train", f"--workdir={workdir}", *SHORT, *own]) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not workdir.exists()

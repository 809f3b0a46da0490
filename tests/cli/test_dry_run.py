"""`--dry-run`: what a run would begin with, checked against a run that really begins."""

import json
from pathlib import Path

import numpy as np
import pytest

import vit_jax
from vit_jax.cli.main import main
from vit_jax.config_files import load_config

CONFIG = """
from vit_jax.config import default, evaluation

def get_config(engine="pjit"):
    config = default()
    config.model.update(name="ViT-Ti/8", width=32, depth=2, mlp_dim=1024, num_heads=2)
    config.batch_size = 16
    config.total.steps = 2
    config.data.update(source="digits", split="train[:100]", pp="resize(16)|value_range(-1, 1)")
    config.log.tensorboard = False
    config.parallel.engine = engine
    if engine == "pjit":
        config.parallel.update(data=4, fsdp=2, replicated_tolerance=1.0)
    with config.unlocked():
        config.evals.test = evaluation(split="train[100:120]", batch_size=8)
    return config
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.py").write_text(CONFIG)
    return tmp_path


def tree():
    return {str(path): path.stat().st_mtime_ns for path in Path(".").rglob("*")}


def dry(capfd, *words):
    before = tree()
    assert main(["train", *words, "--dry-run", "--json"]) == 0
    after = tree()
    assert {name for name in after.keys() - before.keys() if "__pycache__" not in name} == set()
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_it_tells_what_the_run_does(engine, place, capfd):
    found = dry(capfd, f"--config=c.py:{engine}", "--workdir=run")
    assert not Path("run").exists()
    vit_jax.train(load_config(f"c.py:{engine}"), "run")
    model, _ = vit_jax.load("run")
    import jax
    from flax import nnx

    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert found["params"] == sum(leaf.size for leaf in leaves)
    assert sum(entry["params"] for entry in found["layouts"].values()) == found["params"]
    assert found["steps"] == json.loads(Path("run/summary.json").read_text())["steps"] == 2
    assert found["epochs"] == pytest.approx(2 * 16 / 100)
    whole, part = ([16], [2]) if engine == "pjit" else ([8, 2], [1, 2])
    assert found["batch"]["image"] == dict(
        shape=[*whole, 16, 16, 3], dtype="uint8", per_device=[*part, 16, 16, 3]
    )
    assert found["batch"]["label"]["shape"] == whole
    assert found["data"]["examples"] == 100 and found["data"]["labels"] == list("0123456789")
    assert found["evals"]["test"]["examples"] == 20
    # Closed form: float32 parameters, of which fsdp halves those that are sharded.
    replicated = found["layouts"]["replicated"]["params"]
    sharded = found["params"] - replicated
    assert (sharded > 0) == (engine == "pjit")
    assert found["bytes_per_device"]["params"] == 4 * (replicated + sharded // 2)
    assert found["fits"] and found["mesh"].get("fsdp", 1) == (2 if engine == "pjit" else 1)


def test_a_resumed_run_tells_its_step_and_its_workdir_stays_as_it_is(place, capfd):
    vit_jax.train(load_config("c.py"), "run")
    longer = "--config.total.steps=4"
    assert dry(capfd, "--config=c.py", "--workdir=run", longer)["step"] == 2
    assert main(["train", "--config=c.py", "--workdir=run", longer, "--dry-run"]) == 0
    text = capfd.readouterr().out
    assert "4 of 16 examples, 0.64 epochs, of which 2 are done" in text
    assert "image (16, 16, 16, 3) uint8, (2, 16, 16, 3) a device" in text


def test_finetune_is_rehearsed(place, capfd):
    vit_jax.train(load_config("c.py"), "run")
    before = tree()
    words = ["run", "digits", "--epochs=1", "--config.batch_size=16", "--dry-run", "--json"]
    assert main(["finetune", *words]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["model"] == "ViT-Ti/8" and found["batch"]["image"]["shape"][0] == 16
    assert tree() == before


@pytest.mark.parametrize(
    "words, message",
    [
        (["--config.data.source=folder:none"], "none"),
        (["--config.parallel.fsdp=3"], "3"),
        (["--config.evals.test.split=nosplit"], "nosplit"),
        (["--config.init_from=none.npz"], "none.npz"),
        (["--config.total.steps=None"], "config.total: set one of"),
        (["--config.optimizer.name=adamwww"], "did you mean 'adamw'"),
        (["--config.checkpoint.best=eval/x"], "eval/"),
        (["--config.evals.test.use_ema=True"], "needs config.optimizer.ema_decay"),
        (["--workdir=c.py/run"], "cannot use"),
        (["--workdir=gs://bucket/run"], "is no directory"),
        (["--workdir=other"], "belongs to a run with another config"),
    ],
)
def test_what_would_be_refused_is_refused(place, capfd, words, message):
    from vit_jax.train.workdir import claim_workdir

    Path("other").mkdir()
    claim_workdir(Path("other"), load_config("c.py", ["--config.seed=5"]))
    before = tree()
    assert main(["train", "--config=c.py", *words, "--dry-run"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert {name for name in tree().keys() - before.keys() if "__pycache__" not in name} == set()


def test_weights_that_do_not_fit_are_refused(place, capfd):
    np.savez("w.npz", x=np.zeros(3))
    assert main(["train", "--config=c.py", "--config.init_from=w.npz", "--dry-run"]) == 2
    assert "w.npz" in capfd.readouterr().err


def test_it_excludes_a_sweep_and_a_run_needs_a_workdir(place, capfd):
    assert main(["finetune", "run", "digits", "--sweep", "--dry-run"]) == 2
    assert "--dry-run trains nothing, --sweep does" in capfd.readouterr().err
    assert main(["train", "--config=c.py"]) == 2
    assert "train needs --workdir=DIR" in capfd.readouterr().err

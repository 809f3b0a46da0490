"""Every file that docs/extending.md prints, run as a user would: through `vit_jax train`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from vit_jax.cli.main import main
from vit_jax.data.ops import op
from vit_jax.data.sources import opening
from vit_jax.evaluate import evaluation
from vit_jax.models import block, layers
from vit_jax.models.attention import self_attention
from vit_jax.models.positions import bias, embedding, rotary
from vit_jax.tasks import losses, task
from vit_jax.train import optim
from vit_jax.train.log.trackers import TRACKERS
from vit_jax.weights import FORMATS, families

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", GUIDE, re.DOTALL))
REGISTRIES = (
    op.OPERATIONS,
    opening.SOURCES,
    evaluation.EVALUATIONS,
    self_attention.ATTENTION_KINDS,
    embedding.POSITION_EMBEDDINGS,
    rotary.ROTARY_EMBEDDINGS,
    bias.POSITION_BIASES,
    layers.NORMS,
    block.BLOCKS,
    losses.LOSSES,
    task.TASKS,
    optim.OPTIMIZERS,
    TRACKERS,
    families.FAMILIES,
    FORMATS,
)
SHORT = [
    "--config.model.depth=2",
    *("--config.total.epochs=None", "--config.total.steps=4", "--config.batch_size=32"),
    *("--config.optimizer.warmup.epochs=None", "--config.optimizer.warmup.steps=0"),
    *("--config.log.every=1", "--config.log.tensorboard=False"),
]
ENGINES = {
    "pjit": [
        "--config.parallel.data=4",
        "--config.parallel.fsdp=2",
        "--config.parallel.replicated_tolerance=1.0",
    ],
    "pmap": ["--config.parallel.engine=pmap"],
}
OTHER_ARGUMENTS = {
    "posterize.py": {
        "data.pp": "resize(16)|posterize(1)|random_crop(16, padding=1)|value_range(-1, 1)"
    },
    "near.py": {"model.attention_kind": "near(radius=2)"},
    "fourier.py": {"model.posemb": "fourier(scale=1.0)"},
    "parts.py": {
        "model.norm": "layer",
        "model.position_bias": "none",
        "model.rotary": "line(turn=0.4)",
        "model.block": "sequential",
    },
    "yogi.py": {"optimizer.name": "yogi(start=1e-1)"},
    "focal.py": {"loss.name": "focal(gamma=3.0)"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The guide's files in the working directory, beside the configs; registries are restored."""
    for registry in REGISTRIES:
        list(registry)  # registers what the package has
        for field in ("_things", "_origins"):
            monkeypatch.setattr(registry, field, dict(getattr(registry, field)))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name, workdir, *options):
    assert main(["train", f"--config={name}", f"--workdir={workdir}", *SHORT, *options]) == 0
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 4 and np.isfinite(losses).all()
    return losses, lines[-1]


def test_the_guide_has_a_file_for_every_seam():
    assert FILES.keys() == {
        "stripes.py",
        "posterize.py",
        "near.py",
        "fourier.py",
        "parts.py",
        "yogi.py",
        "focal.py",
        "contrastive.py",
        "calibration.py",
        "lines.py",
        "flat.py",
    }
    assert max(len(text.splitlines()) for text in FILES.values()) <= 110


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"flat.py"}))
def test_a_file_trains_on_eight_devices_under_both_engines(name, folder):
    """And what it adds is what is used: with another argument the numbers are others."""
    losses = {}
    for engine, options in ENGINES.items():
        losses[engine], last = train(name, folder / engine, *options)
    np.testing.assert_allclose(losses["pjit"], losses["pmap"], rtol=2e-4)
    for option, other in OTHER_ARGUMENTS.get(name, {}).items():
        found, _ = train(name, folder / option, *ENGINES["pmap"], f"--config.{option}={other}")
        assert found != losses["pmap"]
    if name == "calibration.py":
        assert 0 <= last["eval/calibration/error"] <= 1
    if name == "lines.py":
        lines = (folder / engine / "losses.txt").read_text().splitlines()
        assert lines == [f"{i}: loss {loss:.6f}" for i, loss in enumerate(losses["pmap"], 1)]
    if name == "contrastive.py":
        assert {"eval/test/loss", "eval/test/nearest"} <= last.keys()


def test_a_window_that_holds_all_patches_is_full_attention(folder):
    plain, _ = train("configs/quickstart.py", "plain")
    wide, _ = train("near.py", "wide", "--config.model.attention_kind=near(radius=3)")
    np.testing.assert_allclose(wide, plain, rtol=1e-5)


def test_other_commands_read_the_file_with_import(folder, capfd):
    train("near.py", "run")
    assert main(["evaluate", "--checkpoint=run", "--json", "--import=near.py"]) == 0
    assert json.loads(capfd.readouterr().out)["examples"] == 359
    assert main(["evaluate", "--checkpoint=run", "--import=neer.py"]) == 2
    assert "config file neer.py does not exist" in capfd.readouterr().err


def test_a_resumed_run_keeps_its_arguments(folder, capfd):
    train("focal.py", "run")
    changed = ["--config.loss.name=focal(gamma=3.0)", "--config.total.steps=6"]
    assert main(["train", "--config=focal.py", "--workdir=run", *SHORT, *changed]) == 2
    assert "loss.name" in capfd.readouterr().err


def test_weights_in_a_format_of_ones_own(folder, capfd):
    """Written by `convert`, read by `train`; what the format has no word for is refused."""
    train("configs/quickstart.py", "workdirs/quickstart/pretrain")
    convert = ["convert", "workdirs/quickstart/pretrain", "--format=flat", "--import=flat.py"]
    assert main([*convert, "flat.safetensors"]) == 0
    train("flat.py", "run")
    kept = Path("run/init_from.txt").read_text()
    assert "flat.safetensors: flat, ViT-" in kept and "posemb/embedding (1, 17, 64) -> " in kept
    train("near.py", "masked")
    convert[1] = "masked"
    assert main([*convert, "--import=near.py", "near.safetensors"]) == 2
    message = "the flat format has no model with attention_kind='near(radius=1)'"
    assert message in capfd.readouterr().err
    assert not Path("near.safetensors").exists()

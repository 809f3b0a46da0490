"""A run on images of several sizes: trained under both engines, evaluated, predicted."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main

SHORT = [
    *("--config.model.depth=2", "--config.data.split=train", "--config.evals.test.split=val"),
    *("--config.total.steps=6", "--config.total.epochs=None", "--config.batch_size=16"),
    *("--config.optimizer.warmup.epochs=None", "--config.optimizer.warmup.steps=0"),
    *("--config.log.every=1", "--config.log.tensorboard=False"),
    "--config.data.pp=decode|flip_lr|naflex(24, 4)|value_range(-1, 1)",
]
ENGINES = {
    "pjit": [
        *("--config.parallel.data=4", "--config.parallel.fsdp=2"),
        "--config.parallel.replicated_tolerance=1.0",
    ],
    "pmap": ["--config.parallel.engine=pmap"],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, light and dark, in sizes from 8x30 to 40x11 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, low in (("dark", 0), ("light", 156)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                size = (rng.integers(8, 41), rng.integers(8, 41), 3)
                pixels = rng.integers(low, low + 100, size).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def train(images, workdir, *options):
    source = f"--config.data.source=folder:{images}"
    config = ["--config=configs/quickstart.py:pretrain", f"--workdir={workdir}", source]
    assert main(["train", *config, *SHORT, *options]) == 0
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line], lines[-1]


def test_a_run_on_images_of_several_sizes(images, tmp_path, capfd):
    losses = {}
    for engine, options in ENGINES.items():
        losses[engine], last = train(images, tmp_path / engine, *options)
        assert last["eval/test/top1"] >= 0.5
    np.testing.assert_allclose(losses["pjit"], losses["pmap"], rtol=2e-4)
    assert losses["pjit"][-1] < losses["pjit"][0]
    capfd.readouterr()
    assert main(["evaluate", f"--checkpoint={tmp_path / 'pjit'}", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["examples"] == 16
    paths = [str(images / "val" / name / "3.png") for name in ("dark", "light")]
    assert main(["predict", f"--checkpoint={tmp_path / 'pjit'}", "--json", *paths]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [len(each["top"]) for each in found] == [2, 2]


@pytest.mark.parametrize(
    "option, message",
    [
        ("--config.model.naflex=16", "config.data.pp yields 24 patches of 4x4 pixels, the model"),
        (
            "--config.model.patch_size=2",
            "24 patches of 4x4 pixels, the model takes 24 of 2x2",
        ),
        ("--config.mixup.alpha=0.2", "config.mixup needs images of one size"),
    ],
)
def test_what_does_not_fit_is_one_line(option, message, images, tmp_path, capfd):
    source = f"--config.data.source=folder:{images}"
    config = ["--config=configs/quickstart.py:pretrain", f"--workdir={tmp_path / 'run'}", source]
    assert main(["train", *config, *SHORT, option]) == 2
    assert message in capfd.readouterr().err

"""A run on shards: bit for bit the run on the folder, also when it goes on after a stop."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main

SHORT = [
    *("--config.model.width=32", "--config.model.depth=2", "--config.model.mlp_dim=32"),
    *("--config.model.num_heads=2", "--config.total.epochs=None", "--config.batch_size=16"),
    *("--config.optimizer.warmup.epochs=None", "--config.optimizer.warmup.steps=0"),
    *("--config.log.every=1", "--config.log.tensorboard=False", "--config.evals.test.split=val"),
    *("--config.optimizer.schedule=constant", "--config.data.split=train"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes, light and dark, as class folders and as shards."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    (root / "shards").mkdir()
    for split, count in (("train", 24), ("val", 8)):
        with tarfile.open(root / "shards" / f"pets-{split}-000.tar", "w") as tar:
            for i in range(count):
                for name, low in (("dark", 0), ("light", 156)):
                    image = io.BytesIO()
                    pixels = rng.integers(low, low + 100, (20, 20, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(image, ["png", "webp"][i % 2], lossless=True)
                    place = root / "folder" / split / name / f"{i}.png"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(image.getvalue())
                    for ending, content in (("png", image.getvalue()), ("txt", name.encode())):
                        info = tarfile.TarInfo(f"{name}-{i}.{ending}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return root


def losses(workdir, source, steps, *options):
    config = ["--config=configs/quickstart.py:pretrain", f"--workdir={workdir}", *SHORT]
    config += [f"--config.data.source={source}", f"--config.total.steps={steps}", *options]
    assert main(["train", *config]) == 0
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.slow
def test_a_run_on_shards(images, tmp_path, capfd):
    folder = losses(tmp_path / "folder", f"folder:{images}/folder", 4)
    shards = f"wds:{images}/shards/pets-{{train,val}}-000.tar"
    assert losses(tmp_path / "wds", shards, 2) == folder[:2]
    assert losses(tmp_path / "wds", shards, 4) == folder
    capfd.readouterr()
    found = []
    for run in ("folder", "wds"):
        assert main(["evaluate", f"--checkpoint={tmp_path / run}", "--json"]) == 0
        found.append(json.loads(capfd.readouterr().out) | dict(source=""))
    assert found[0] == found[1] and found[0]["examples"] == 16
    assert (
        main(["predict", f"--checkpoint={tmp_path / 'wds'}", str(images / "folder/val/dark")]) == 0
    )


def test_a_damaged_shard_is_refused_before_the_workdir_is_claimed(images, tmp_path, capfd):
    whole = (images / "shards" / "pets-val-000.tar").read_bytes()
    (tmp_path / "pets-train-000.tar").write_bytes(whole[:-12_000])
    config = ["--config=configs/quickstart.py:pretrain", f"--workdir={tmp_path / 'run'}", *SHORT]
    assert main(["train", *config, f"--config.data.source=wds:{tmp_path}"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "pets-train" in line]
    assert len(lines) == 1 and "pets-train-000.tar: truncated" in lines[0]
    assert not (tmp_path / "run").exists()

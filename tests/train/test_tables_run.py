"""A run on a table of images: the losses of the folder's run, and the same after a resume."""

import json

import numpy as np
import pytest
from PIL import Image

from vit_jax import config as configs
from vit_jax.errors import InputError, Preempted
from vit_jax.train import loop
from vit_jax.train.health.preemption import PreemptionWatch
from vit_jax.train.start import lacks_preprocessing


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Images in folders, and pets.csv that names them."""
    root = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for split, counts in (("train", (24, 4)), ("val", (4, 4))):
        for (name, low), count in zip((("dark", 0), ("light", 156)), counts):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(low, low + 100, (20, 24, 3)).astype(np.uint8)
                path = root / split / name / f"{i:02}.png"
                Image.fromarray(pixels).save(path)
                rows.append(f"{path.relative_to(root)},{name},{split}")
    (root / "pets.csv").write_text("\n".join(rows))
    return root


def config_of(source, **options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=1)
    config.data.update(source=source, pp="inception_crop(8)|flip_lr|value_range(-1, 1)", **options)
    config.batch_size = 8
    config.total.steps = 4
    config.log.update(every=1, tensorboard=False)
    return config


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_a_table_trains_as_its_folder(pets, tmp_path):
    for kind, source in (("folder", f"folder:{pets}"), ("csv", f"csv:{pets}/pets.csv")):
        loop.train(config_of(source), str(tmp_path / kind))
    found = losses(tmp_path / "csv")
    assert found == losses(tmp_path / "folder") and len(found) == 4


def test_a_balanced_run_goes_on_exactly_under_the_other_engine(pets, tmp_path, monkeypatch):
    config = config_of(f"csv:{pets}/pets.csv", balance=1.0)
    loop.train(config, str(tmp_path / "whole"))
    monkeypatch.setattr(PreemptionWatch, "reached", lambda self, step: step == 2)
    with pytest.raises(Preempted):
        loop.train(config, str(tmp_path / "run"))
    monkeypatch.undo()
    config.data.balance = 0.5
    with pytest.raises(InputError, match="data.balance"):
        loop.train(config, str(tmp_path / "run"))
    config.data.balance = 1.0
    config.parallel.engine = "pmap"
    loop.train(config, str(tmp_path / "run"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=1e-4)


@pytest.mark.parametrize("source", ["csv:x.csv", "parquet:x/*.parquet", "hf:someone/pets"])
def test_fine_tuning_takes_the_preprocessing_of_the_weights(source):
    config = config_of(source)
    assert not lacks_preprocessing(config)
    config.init_from, config.data.pp = "weights.npz", ""
    assert lacks_preprocessing(config)

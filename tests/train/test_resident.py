"""Batches made on the devices: those of the host, bit for bit."""

import itertools

import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax import data
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.parallel.engines import create_engine
from vit_jax.train.resident import resident_batches


@pytest.fixture(scope="module")
def engine():
    return create_engine(configs.default().parallel)


@pytest.mark.parametrize("start_step", [0, 3, 2**33])
@pytest.mark.parametrize(
    "pp",
    [
        "random_crop(8, padding=2)|flip_lr|value_range(-1, 1)",
        "resize(12)|flip_ud|random_crop((10, 8))",
        "resize(12)",
        "",
    ],
)
def test_batches_are_those_of_the_host(pp, start_step, engine):
    source = data.open_source("digits", "train[:10%]")  # 180 images: epochs end within batches
    options = dict(batch_size=64, seed=7, start_step=start_step)
    host = data.train_batches(source, data.parse(pp), **options)
    device = resident_batches(source, data.parse(pp), engine, **options)
    for expected, batch in itertools.islice(zip(host, device, strict=False), 5):
        np.testing.assert_array_equal(batch["image"], expected["image"])
        np.testing.assert_array_equal(batch["label"], expected["label"])
        assert batch["image"].sharding.is_equivalent_to(engine.batch_sharding, 4)


def test_what_cannot_live_on_the_device_is_refused(engine):
    source = data.open_source("digits", "train")
    with pytest.raises(InputError, match="inception_crop"):
        resident_batches(source, data.parse("inception_crop(8)"), engine, batch_size=8, seed=0)
    parallel = configs.default().parallel
    parallel.engine = "pmap"
    pmap = create_engine(parallel)
    with pytest.raises(InputError, match="engine='pmap'; set config.data.resident to False"):
        resident_batches(source, data.parse("flip_lr"), pmap, batch_size=8, seed=0)


@pytest.mark.parametrize(
    "option, message",
    [
        ("parallel.engine=pmap", "set config.data.resident to False"),
        ("data.pp=inception_crop(16)", "inception_crop"),
    ],
)
def test_it_is_refused_before_anything_is_written(option, message, tmp_path, capsys):
    arguments = ["--config=configs/quickstart.py:pretrain", "--config.data.resident=True"]
    workdir = tmp_path / "run"
    assert main(["train", *arguments, f"--config.{option}", f"--workdir={workdir}"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not workdir.exists()

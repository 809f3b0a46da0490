"""The models that come with the package."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax import InputError
from vit_jax.cli.main import main

FASHION = Path("/usr/share/datasets/fashion-mnist")


def test_a_model_needs_no_network_and_no_clone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = np.full((90, 60, 3), 255, np.uint8)
    Image.fromarray(image).save("white.png")
    assert main(["predict", "--checkpoint=vit_jax/fashion-mnist", "white.png", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["top"][0]["label"] in vit_jax.load("vit_jax/fashion-mnist")[1].labels


def test_an_unknown_one_is_named():
    with pytest.raises(InputError, match="model of the package 'vit_jax/fashion'.*did you mean"):
        vit_jax.load("vit_jax/fashion")


def test_the_files_are_small():
    folder = Path(vit_jax.__path__[0], "weights", "shipped")
    assert 0 < sum(file.stat().st_size for file in folder.iterdir()) < 4e6


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_its_accuracy_is_that_of_the_docs():
    def read(name, header):
        return np.frombuffer(gzip.open(FASHION / name).read(), np.uint8, offset=header)

    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)[:2000]
    labels = read("t10k-labels-idx1-ubyte.gz", 8)[:2000]
    model, info = vit_jax.load("vit_jax/fashion-mnist")
    pixels = np.repeat(images, 3, axis=-1).astype(np.float32) / 127.5 - 1
    top1 = np.mean(np.asarray(model(pixels)).argmax(-1) == labels)
    assert abs(top1 - 0.899) < 0.02  # three standard errors of 2,000 images

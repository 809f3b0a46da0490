"""Predictions of many images: the rows of each alone, in few compiled shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax import create_model, data
from vit_jax.errors import InputError
from vit_jax.evaluate.predict import Predictor
from vit_jax.weights import Weights

OPTIONS = dict(width=8, depth=1, mlp_dim=8, num_heads=2, patch_size=4, image_size=8, num_classes=3)
PP = "decode|resize(8)|normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))"
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def loaded():
    model = create_model("ViT-Ti/16", **OPTIONS)
    model.head.kernel[...] = rng.normal(size=model.head.kernel.shape)
    return model, Weights(name="ViT-Ti/16", options=OPTIONS, pp=PP, labels=["a", "b", "c"])


def expected(model, images):
    scaled = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    logits = np.asarray(model(scaled.astype(np.float32)), np.float64)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_any_number_of_images_in_few_shapes(loaded):
    images = rng.integers(0, 256, (21, 8, 8, 3), np.uint8)
    right = expected(loaded[0], images)
    assert right.std(axis=0).min() > 1e-3  # so that a wrong order shows
    predictor = Predictor(*loaded, batch_size=8)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event)
    )
    for count in range(1, 22):
        np.testing.assert_allclose(predictor(images[:count]), right[:count], atol=1e-5)
    programs = [event for event in compiled if event.endswith("backend_compile_duration")]
    assert len(programs) == 4  # of 1, 2, 4 and 8 images


def test_files_in_their_order(loaded, tmp_path):
    paths = []
    for i in range(11):
        height, width = rng.integers(5, 20, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels).save(paths[-1])
    predictor = Predictor(*loaded, batch_size=4)
    images = np.concatenate([data.load_images([path], data.parse(PP)) for path in paths])
    right = expected(loaded[0], images)
    np.testing.assert_allclose(predictor.files(paths), right, atol=1e-5)

    (tmp_path / "9.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="9.png: cannot be read as an image"):
        predictor.files(paths)


def test_a_sigmoid_model_gives_sigmoids(loaded):
    model, info = loaded
    images = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    scaled = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    logits = np.asarray(model(scaled.astype(np.float32)), np.float64)
    found = Predictor(model, dataclasses.replace(info, multi_label=True))(images)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)

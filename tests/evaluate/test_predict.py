"""Predictions of many images: the rows of each alone, in few compiled shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from vit_jax import create_model, data
from vit_jax.errors import InputError
from vit_jax.evaluate.predict import Predictor, find_images
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


def test_a_broken_image_costs_only_itself(loaded, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(9)]
    for i, path in enumerate(paths):
        if i in (0, 3, 4, 5, 8):
            (tmp_path / f"{i}.png").write_bytes(b"no image")
        else:
            Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(path)
    paths.append(str(tmp_path / "missing.png"))
    found = list(Predictor(*loaded, batch_size=3).stream(paths))
    assert [path for path, _ in found] == paths
    broken = [path for path, row in found if isinstance(row, InputError)]
    assert broken == [paths[i] for i in (0, 3, 4, 5, 8, 9)]
    good = [path for path in paths if path not in broken]
    right = Predictor(*loaded).files(good)
    rows = [row for _, row in found if not isinstance(row, InputError)]
    np.testing.assert_allclose(rows, right, atol=1e-5)


def test_folders_and_patterns_name_their_images_once(tmp_path):
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "notes.txt", "odd[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inside = [str(tmp_path / name) for name in ("a.JPG", "b.png", "deep/er/c.webp", "odd[1].png")]
    assert find_images([str(tmp_path)]) == sorted(inside)
    assert find_images([f"{tmp_path}/*.png"]) == [inside[1], inside[3]]
    assert find_images([inside[1], f"{tmp_path}/b*", str(tmp_path / "odd[1].png")]) == [
        inside[1],
        inside[3],
    ]
    missing = str(tmp_path / "x.png")
    assert find_images([missing, inside[1]]) == [missing, inside[1]]  # reading it will fail
    (tmp_path / "empty").mkdir()
    for wrong, message in (
        ("empty", "no image in"),
        ("x.png", "x.png does not exist"),
        ("*.bmp", "matches no file"),
    ):
        with pytest.raises(InputError, match=message):
            find_images([str(tmp_path / wrong)])


def test_a_sigmoid_model_gives_sigmoids(loaded):
    model, info = loaded
    images = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    scaled = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    logits = np.asarray(model(scaled.astype(np.float32)), np.float64)
    found = Predictor(model, dataclasses.replace(info, multi_label=True))(images)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)

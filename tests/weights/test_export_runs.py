"""Runs of every engine, converted to every format and read back: the same logits.

transformers, TensorFlow and jax.export compute what was written where they can.
"""

import json

import jax
import numpy as np
import pytest
from jax import export

import vit_jax
from vit_jax import config as configs
from vit_jax.cli.main import main

PP = "resize(16, antialias=True)|value_range(-1, 1)"
ENGINES = {
    "pjit": dict(),
    "pmap": dict(engine="pmap"),
    "fsdp": dict(data=2, fsdp=4),
}


@pytest.fixture(scope="module", params=ENGINES)
def workdir(request, tmp_path_factory):
    """A run of a few steps on all eight devices."""
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=128, depth=2, mlp_dim=256, num_heads=4)
    config.data.update(source="digits", split="train[:80%]", pp=PP)
    config.batch_size = 16
    config.total.steps = 3
    config.optimizer.learning_rate = 0.01
    config.optimizer.ema_decay = 0.5
    config.parallel.update(ENGINES[request.param])
    path = tmp_path_factory.mktemp("run") / request.param
    assert jax.device_count() == 8
    vit_jax.train(config, str(path))
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def normalised(images):
    return (images / 127.5 - 1).astype(np.float32)


def convert(workdir, path, format, *more):
    assert main(["convert", str(workdir), str(path), f"--format={format}", *more]) == 0
    return path


def logits(path, images, **options):
    model, info = vit_jax.load(path, **options)
    assert info.labels == [str(i) for i in range(10)]
    assert (info.pp.removeprefix("decode|"), info.config.image_size) == (PP, (16, 16))
    return np.asarray(model(normalised(images)))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
    "format, name",
    [("google", "x.npz"), ("timm", "x.safetensors"), ("timm", "timm"), ("huggingface", "hf")],
)
def test_files_are_read_back(format, name, workdir, images, tmp_path):
    written = convert(workdir, tmp_path / name, format)
    assert_close(logits(written, images), logits(workdir, images))


def test_averaged_parameters_are_written_on_request(workdir, images, tmp_path):
    written = convert(workdir, tmp_path / "x.npz", "google", "--use-ema")
    averaged = logits(workdir, images, use_ema=True)
    assert_close(logits(written, images), averaged)
    assert np.abs(logits(workdir, images) - averaged).max() > 1e-3


def test_transformers_computes_the_same(workdir, images, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = convert(workdir, tmp_path / "hf", "huggingface")
    model = transformers.AutoModelForImageClassification.from_pretrained(path).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(normalised(images)).permute(0, 3, 1, 2)).logits
    assert_close(found.numpy(), logits(workdir, images))


def test_programs_compute_the_same(workdir, images, tmp_path):
    expected = logits(workdir, images)
    program = export.deserialize(
        convert(workdir, tmp_path / "x.stablehlo", "stablehlo").read_bytes()
    )
    assert_close(program.call(images), expected)
    assert json.loads((tmp_path / "x.stablehlo.json").read_text())["labels"]
    tf = pytest.importorskip("tensorflow")
    path = convert(workdir, tmp_path / "saved", "savedmodel")
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    assert_close(serve(images=tf.constant(images))["logits"].numpy(), expected)


def test_a_second_conversion_changes_nothing(workdir, images, tmp_path):
    """npz -> transformers -> timm -> npz, each read from what the one before wrote."""
    path = convert(workdir, tmp_path / "a.npz", "google")
    for format, name in (("huggingface", "b"), ("timm", "c"), ("google", "d.npz")):
        path = convert(path, tmp_path / name, format)
        assert_close(logits(path, images), logits(workdir, images))

"""Exported inference functions, run by what is left when this package is not there."""

import dataclasses
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from flax import traverse_util

from vit_jax.errors import InputError
from vit_jax.models import identify, model_config
from vit_jax.weights import Weights, read, write
from vit_jax.weights.formats import programs
from vit_jax.weights.record import parameter_shapes

PP = "resize_small((10, 15))|central_crop((8, 12))|normalize(mean=(0.1, 0.2, 0.3), std=0.5)"


@pytest.fixture(scope="module")
def weights():
    config = model_config(
        "ViT-B/16",
        width=24,
        depth=2,
        mlp_dim=40,
        num_heads=3,
        patch_size=4,
        image_size=(8, 12),
        num_classes=3,
    )
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=shape).astype(np.float32) * 0.2
        for path, shape in parameter_shapes(config).items()
    }
    name, options = identify(config)
    params = traverse_util.unflatten_dict(params, sep="/")
    return Weights(name=name, options=options, params=params, pp=PP, labels=list("abc"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 8, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def logits(weights, images, run_ours):
    normalised = (images / 255 - np.array([0.1, 0.2, 0.3])) / 0.5
    return run_ours(weights, normalised.astype(np.float32))


def test_stablehlo_runs_without_this_package(weights, images, logits, tmp_path):
    lines = write(weights, tmp_path / "x.stablehlo")
    assert lines == [f"wrote {tmp_path}/x.stablehlo", f"wrote {tmp_path}/x.stablehlo.json"]
    np.save(tmp_path / "images.npy", images)
    code = f"""
import sys
sys.modules["vit_jax"] = None
import numpy as np
from jax import export
function = export.deserialize(open(r"{tmp_path}/x.stablehlo", "rb").read())
images = np.load(r"{tmp_path}/images.npy")
np.savez(r"{tmp_path}/out.npz", all=function.call(images), one=function.call(images[:1]))
print(function.platforms)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "tpu" in result.stdout and "cuda" in result.stdout
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_allclose(out["all"], logits, atol=1e-5)
        np.testing.assert_allclose(out["one"], logits[:1], atol=1e-5)
    beside = json.loads((tmp_path / "x.stablehlo.json").read_text())
    assert beside["labels"] == list("abc") and beside["pp"] == PP


def test_savedmodel_runs_in_tensorflow(weights, images, logits, tmp_path):
    tf = pytest.importorskip("tensorflow")
    write(weights, tmp_path / "saved", format="savedmodel")
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    for count in (5, 1):
        out = serve(images=tf.constant(images[:count]))["logits"]
        np.testing.assert_allclose(out, logits[:count], atol=1e-5)
    assert json.loads((tmp_path / "saved" / "vit_jax.json").read_text())["labels"] == list("abc")


def test_parameters_on_a_mesh_are_exported(weights, images, logits, tmp_path):
    """As those of a run's checkpoint, which carry a sharding."""
    tf = pytest.importorskip("tensorflow")
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = jax.device_put(weights.params, sharding)
    placed = dataclasses.replace(weights, params=params)
    write(placed, tmp_path / "saved", format="savedmodel")
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    np.testing.assert_allclose(serve(images=tf.constant(images))["logits"], logits, atol=1e-5)
    for name in ("x.stablehlo", "x.npz", "x.safetensors", "hf"):
        assert write(placed, tmp_path / name)


def test_the_sigmoid_loss_travels(weights, tmp_path):
    for name in ("x.npz", "hf"):
        write(dataclasses.replace(weights, multi_label=True), tmp_path / name)
        assert read(tmp_path / name).multi_label
    document = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert document["problem_type"] == "multi_label_classification"


def test_weights_that_do_not_fit_are_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="holds less than 2 GiB"):
        write(weights, tmp_path / "x.stablehlo")


def test_without_tensorflow_there_is_one_clear_line(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match="a SavedModel needs TensorFlow"):
        write(weights, tmp_path / "saved", format="savedmodel")


def test_urls_and_hub_ids_use_the_same_entry(weights, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    hub = pytest.importorskip("huggingface_hub")
    write(weights, tmp_path / "x.npz")
    write(weights, tmp_path / "folder")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "x.npz"), "/bucket/x.npz")
    memory.put(str(tmp_path / "x.npz.json"), "/bucket/x.npz.json")
    memory.put(str(tmp_path / "folder"), "/bucket/folder", recursive=True)
    expected = weights.params["head"]["kernel"]
    for url in ("memory://bucket/x.npz", "memory://bucket/folder"):
        published = read(url)
        np.testing.assert_array_equal(published.params["head"]["kernel"], expected)
        assert published.labels == list("abc")
    with pytest.raises(InputError, match="memory://bucket/no.npz cannot be read"):
        read("memory://bucket/no.npz")

    asked = []

    def model_info(self, repo, timeout):
        files = [types.SimpleNamespace(rfilename="model.safetensors")]
        return types.SimpleNamespace(siblings=files)

    def snapshot_download(repo, allow_patterns=None, local_files_only=False):
        asked.append((repo, allow_patterns))
        return str(tmp_path / "folder")

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    published = read("somebody/vit-small")
    np.testing.assert_array_equal(published.params["head"]["kernel"], expected)
    assert asked == [("somebody/vit-small", ["*.json", "*.safetensors"])]
    published = read("somebody/vit-small:model.safetensors")
    np.testing.assert_array_equal(published.params["head"]["kernel"], expected)
    assert asked[1:] == [("somebody/vit-small", ["*.json", "model.safetensors"])]

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(
        InputError, match="the Hugging Face hub does not give it: OSError: no route"
    ):
        read("somebody/vit-small")

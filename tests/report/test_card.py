"""Model cards as huggingface_hub reads them, and directories as transformers loads them."""

import dataclasses
import json

import numpy as np
import pytest
from flax import traverse_util
from huggingface_hub import ModelCard
from PIL import Image

import vit_jax
from vit_jax.cli.main import main
from vit_jax.data import load_images, parse
from vit_jax.models import identify, model_config
from vit_jax.report import card, publish
from vit_jax.weights import Weights
from vit_jax.weights.record import parameter_shapes


@pytest.fixture(scope="module")
def weights():
    config = model_config(
        "ViT-Ti/8", width=32, depth=2, mlp_dim=48, num_heads=2, image_size=32, num_classes=2
    )
    rng = np.random.default_rng(0)
    params = {
        path: 0.1 * rng.normal(size=shape).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    name, options = identify(config)
    return Weights(
        name=name,
        options=options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp="resize(32, antialias=True)|value_range(-1, 1)",
        labels=["a|`b`", "c\n---\nlicense: mit"],
        source="owner/base",
        family="timm ViT",
    )


def test_a_finished_run_has_a_card_that_the_hub_reads(finished):
    read = ModelCard.load(finished / "README.md")
    data = read.data
    assert (data.license, data.library_name) == ("unknown", "vit_jax")
    assert data.pipeline_tag == "image-classification" and "vit_jax" in data.tags
    assert data.base_model is None and data.datasets is None
    summary = json.loads((finished / "summary.json").read_text())
    results = {one.metric_name: one for one in data.eval_results}
    best = max(
        line["eval/test/top1"]
        for line in map(json.loads, (finished / "metrics.jsonl").read_text().splitlines())
        if "eval/test/top1" in line
    )
    assert results["Top-1 accuracy"].metric_value == pytest.approx(best, abs=1e-6)
    assert results["Top-1 accuracy"].dataset_name == "photos"  # without the folders above it
    assert results["Top-1 accuracy"].dataset_split == "train[60%:]"
    assert str(finished.parent) not in read.content
    assert f"{summary['params']:,}" in read.text


def test_a_readme_of_somebody_else_stays(finished, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    card.write_card(tmp_path, 1)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_names_of_classes_do_not_break_the_card(weights):
    subject = card.Subject(title="x | <script>", weights=weights, where="owner/x")
    read = ModelCard(card.card(subject))
    assert read.data.license == "unknown" and read.data.base_model == "owner/base"
    assert "\n---\nlicense: mit" not in read.text
    assert "# x \\| \\<script\\>" in read.text and "`` a\\|`b` ``" in read.text


def test_where_weights_come_from(weights, tmp_path, monkeypatch):
    run = dict(init_from="google/vit-base-patch16-224", data=dict(source="hf:owner/photos"))
    trained = dataclasses.replace(weights, run_config=run)
    data = card.metadata(card.Subject(title="x", weights=trained, metrics={"eval/t/top1": 0.5}))
    assert data["base_model"] == "google/vit-base-patch16-224"
    assert data["datasets"] == ["owner/photos"]
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "owner/photos"
    for value in (None, float("nan"), float("inf")):  # what diverged has no result
        subject = card.Subject(title="x", weights=trained, metrics={"eval/t/top1": value})
        assert "model-index" not in card.metadata(subject)
    for local in ("workdirs/pets", "/data/B_16.npz", "B_16.npz"):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "workdirs").mkdir(exist_ok=True)
        run = dict(run, init_from=local)
        assert card.base_model(dataclasses.replace(weights, run_config=run)) == ""
    # Weights that come with the package are not on the hub, so they are named without a link.
    shipped = dataclasses.replace(weights, run_config=dict(run, init_from="vit_jax/fashion-mnist"))
    subject = card.Subject(title="x", weights=shipped)
    assert "base_model" not in card.metadata(subject)
    text = card.card(subject)
    assert "`vit_jax/fashion-mnist`, which comes with vit_jax" in text
    assert "huggingface.co/vit_jax" not in text
    assert card.dataset("tfds:oxford_iiit_pet") == ("oxford_iiit_pet", "oxford_iiit_pet", False)
    assert card.dataset("folder:/home/me/pets/") == ("imagefolder", "pets", False)
    assert card.dataset("digits") == ("digits", "digits", False)


def test_transformers_loads_the_directory_of_a_run(finished, tmp_path):
    """The same logits of a photograph, through the library's own preprocessing."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from skimage.data import astronaut

    image = Image.fromarray(astronaut()[:400, 60:420])
    image.save(tmp_path / "astronaut.png")
    target = tmp_path / "hub"
    assert main(["convert", str(finished), str(target), "--license=mit"]) == 0
    assert ModelCard.load(target / "README.md").data.license == "mit"
    assert ModelCard.load(target / "README.md").data.library_name == "transformers"
    processor = transformers.AutoImageProcessor.from_pretrained(target)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(target).eval()
    with torch.no_grad():
        logits = theirs(**processor(image, return_tensors="pt")).logits.numpy()
    model, info = vit_jax.load(finished)
    preprocess = parse(info.pp)
    pixels = load_images([str(tmp_path / "astronaut.png")], preprocess)
    images = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    ours = np.asarray(model(images.astype(np.float32)))
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(ours, logits, atol=1e-4)
    assert [theirs.config.id2label[i] for i in range(2)] == info.labels


def test_timm_finds_what_its_loader_reads(finished, tmp_path):
    """The keys of config.json that timm.models._hub reads (pytorch-image-models@0041cb7)."""
    assert main(["convert", str(finished), str(tmp_path / "hub"), "--format=timm"]) == 0
    found = json.loads((tmp_path / "hub/config.json").read_text())
    assert found["architecture"].startswith("vit_") and found["num_classes"] == 2
    assert found["model_args"]["embed_dim"] == 32
    prepared = found["pretrained_cfg"]
    assert prepared["input_size"] == [3, 32, 32] and prepared["crop_mode"] == "squash"
    assert prepared["mean"] == prepared["std"] == [0.5, 0.5, 0.5]
    assert prepared["num_classes"] == 2 and prepared["classifier"] == "head"
    assert found["label_names"] == vit_jax.load(finished)[1].labels
    read = ModelCard.load(tmp_path / "hub/README.md")
    assert read.data.library_name == "timm" and 'timm.create_model("local-dir:' in read.text
    assert vit_jax.load(tmp_path / "hub")[1].labels == found["label_names"]


def test_timm_loads_the_directory(weights, tmp_path):
    """Where timm is installed; by hand with timm 1.0.31: a difference of 1.2e-7."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from skimage.data import astronaut

    image = Image.fromarray(astronaut()[:400, 60:420])
    image.save(tmp_path / "astronaut.png")
    publish.write_directory(weights, str(tmp_path / "hub"), format="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}/hub", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    with torch.no_grad():
        logits = theirs(transform(image)[None]).numpy()
    model, info = vit_jax.load(tmp_path / "hub")
    images = load_images([str(tmp_path / "astronaut.png")], parse(info.pp)) / 127.5 - 1
    np.testing.assert_allclose(model(images.astype(np.float32)), logits, atol=1e-4)


def test_a_license_without_a_card_is_refused(finished, tmp_path, capsys):
    assert main(["convert", str(finished), f"{tmp_path}/x.npz", "--license=mit"]) == 2
    assert "--license=mit is for the model card" in capsys.readouterr().err

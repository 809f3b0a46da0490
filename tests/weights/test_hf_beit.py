"""BEiT and data2vec's image models as transformers writes them."""

import json

import pytest

from tests.weights.huggingface_models import assert_close, assert_round_trip, features, make, noise
from vit_jax import weights
from vit_jax.errors import InputError

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

OWN = dict(use_relative_position_bias=True)
SHARED = dict(use_shared_relative_position_bias=True)
CLASSES = dict(num_labels=5)
CASES = {
    "features": ("BeitModel", OWN),
    "classifier": ("BeitForImageClassification", OWN | CLASSES | dict(layer_norm_eps=1e-3)),
    "shared": ("BeitForImageClassification", SHARED | CLASSES | dict(use_mask_token=True)),
    "class token": ("BeitForImageClassification", OWN | CLASSES | dict(use_mean_pooling=False)),
    "added positions": (
        "BeitForImageClassification",
        CLASSES | dict(use_absolute_position_embeddings=True, hidden_act="gelu_pytorch_tanh"),
    ),
    "data2vec": ("Data2VecVisionForImageClassification", OWN | CLASSES),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, tmp_path, run_ours):
    kind, options = CASES[case]
    model = make(kind, options)
    model.save_pretrained(tmp_path)
    found = weights.read(tmp_path)
    assert found.config.qkv_bias == "no_key"
    assert found.config.pool_then_norm == (case != "class token")
    for size in ((32, 32), (24, 56)):
        images = noise(*size)
        method = "bicubic" if case == "added positions" else "bilinear"
        ours = run_ours(weights.read(tmp_path, image_size=size, resample=method), images)
        assert_close(ours, features(model, images))
        assert found.resample == method
    assert assert_round_trip(model, tmp_path) == kind.replace("Data2VecVision", "Beit")


@pytest.mark.parametrize("case", ["classifier", "shared", "added positions"])
def test_the_newer_names_are_the_same_model(case, tmp_path):
    model = make(*CASES[case])
    model.save_pretrained(tmp_path / "old")
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    old, new = (weights.read(tmp_path / name) for name in ("old", "new"))
    assert old.config == new.config


def test_tokens_without_a_norm_are_averaged(tmp_path, run_ours):
    model = make("Data2VecVisionModel", OWN)
    model.save_pretrained(tmp_path)
    images = noise(32, 32)

    def mean(tokens):
        return tokens[:, 1:].mean(1)

    assert_close(run_ours(weights.read(tmp_path), images), mean(features(model, images)))
    assert assert_round_trip(model, tmp_path, pooled=mean) == "Data2VecVisionModel"


def test_the_head_of_masked_patches_is_set_aside(tmp_path, run_ours):
    """The norm before it stays: features are the mean of the tokens that the head sees."""
    model = make("BeitForMaskedImageModeling", SHARED | dict(vocab_size=32))
    import torch

    with torch.no_grad():
        model.lm_head.weight.copy_(torch.eye(32))
        model.lm_head.bias.zero_()
    model.save_pretrained(tmp_path)
    images = noise(32, 32)
    found = weights.read(tmp_path)
    assert_close(run_ours(found, images), features(model, images).mean(1))
    assert "set aside, another network: lm_head.* (2 tensors)" in found.report
    with pytest.raises(InputError, match="BEiT has no model with pool_then_norm=False"):
        weights.write(found, tmp_path / "again")


def test_the_image_size_follows_from_the_table(tmp_path):
    make(*CASES["classifier"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["image_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.read(tmp_path).config.image_size == (32, 32)


@pytest.mark.parametrize(
    "change, message",
    [
        (SHARED, "use_shared_relative_position_bias is True; the tensors lack"),
        (dict(use_mean_pooling=False), "use_mean_pooling is False; the tensors have"),
        (dict(num_attention_heads=4), "config.json says num_heads 4, the tensors 2"),
        (dict(image_size=[32, 64]), "its position biases are of 4 x 8 patches"),
        (dict(image_size=64), "misshapen"),
    ],
)
def test_a_contradiction_is_refused(change, message, tmp_path):
    make(*CASES["classifier"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        weights.read(tmp_path)


def test_biases_of_a_grid_that_is_not_square_are_not_written(tmp_path):
    make(*CASES["classifier"]).save_pretrained(tmp_path)
    found = weights.read(tmp_path, image_size=(32, 64))
    with pytest.raises(InputError, match=r"BEiT has no model with image_size=\(32, 64\)"):
        weights.write(found, tmp_path / "again")

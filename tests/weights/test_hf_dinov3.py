"""DINOv3 as transformers writes it."""

import json

import pytest

from tests.weights.huggingface_models import assert_close, assert_round_trip, features, make, noise
from vit_jax import weights
from vit_jax.errors import InputError

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

CASES = {
    "plain": dict(num_register_tokens=2),
    "gated": dict(num_register_tokens=2, use_gated_mlp=True, hidden_act="silu"),
    "no registers": dict(layer_norm_eps=1e-3, rope_theta=30.0, pos_embed_rescale=None),
    "all biases": dict(key_bias=True),
    "no biases": dict(
        query_bias=False, value_bias=False, proj_bias=False, mlp_bias=False, patch_size=4
    ),
    "tanh": dict(hidden_act="gelu_pytorch_tanh"),
}


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_transformers(case, tmp_path, run_ours):
    model = make("DINOv3ViTModel", CASES[case])
    model.save_pretrained(tmp_path)
    for size in ((32, 32), (24, 56)):
        images = noise(*size)
        ours = run_ours(weights.read(tmp_path, image_size=size), images)
        assert_close(ours, features(model, images))
    assert assert_round_trip(model, tmp_path) == "DINOv3ViTModel"


def test_the_newer_names_are_the_same_model(tmp_path):
    model = make("DINOv3ViTModel", CASES["gated"])
    model.save_pretrained(tmp_path / "old")
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    old, new = (weights.read(tmp_path / name) for name in ("old", "new"))
    assert old.config == new.config
    assert old.config.rotary == "centred(rescale=2.0)"
    assert old.aside.keys() == {"mask_token"}


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(use_gated_mlp=False, hidden_act="gelu"), "use_gated_mlp is False; the tensors have"),
        (dict(hidden_act="gelu"), "hidden_act is 'gelu'; it is not supported, only 'silu'"),
        (dict(key_bias=True), "key_bias is True; the tensors lack"),
        (dict(num_register_tokens=4), "num_register_tokens is 4; the tensors hold 2"),
        (dict(strange=1), "strange is 1; this field is not known"),
    ],
)
def test_a_contradiction_is_refused(change, message, tmp_path):
    make("DINOv3ViTModel", CASES["gated"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        weights.read(tmp_path)


def test_what_only_training_does_otherwise_is_said(tmp_path):
    make("DINOv3ViTModel", dict(pos_embed_jitter=1.5)).save_pretrained(tmp_path)
    report = "\n".join(weights.read(tmp_path).report)
    assert "not changed at random in training here (pos_embed_jitter)" in report


def test_a_classifier_is_refused_by_name(tmp_path):
    make("DINOv3ViTModel", CASES["plain"]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="DINOv3 has no model with num_classes=5"):
        weights.write(weights.read(tmp_path, num_classes=5), tmp_path / "again")

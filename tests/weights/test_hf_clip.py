"""The image towers of CLIP and SigLIP as transformers writes them."""

import json

import numpy as np
import pytest

from tests.weights.huggingface_models import assert_close, assert_round_trip, features, make, noise
from vit_jax import weights
from vit_jax.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

CLIP = {
    "pair": ("CLIPModel", dict(vision={}, projection_dim=12)),
    "pair, erf": ("CLIPModel", dict(vision=dict(hidden_act="gelu", layer_norm_eps=1e-3))),
    "tower": ("CLIPVisionModel", {}),
    "tower with projection": ("CLIPVisionModelWithProjection", dict(projection_dim=12)),
    "classifier": ("CLIPForImageClassification", dict(vision={}, num_labels=5)),
}
SIGLIP = {
    "pair": ("SiglipModel", dict(vision={})),
    "tower": ("SiglipVisionModel", dict(hidden_act="gelu", layer_norm_eps=1e-3)),
    "incomplete patches": ("SiglipVisionModel", dict(image_size=38)),
    "classifier": ("SiglipForImageClassification", dict(vision={}, num_labels=5)),
    "classifier alone": (
        "SiglipForImageClassification",
        dict(vision=dict(vision_use_head=False), num_labels=5),
    ),
}


def check(case, cases, folder, run_ours):
    model = make(*cases[case])
    model.save_pretrained(folder)
    found = weights.read(folder)
    for size in (found.config.image_size, (24, 56)):
        images = noise(*size)
        ours = run_ours(weights.read(folder, image_size=size, resample="bicubic"), images)
        more = dict(interpolate_pos_encoding=size == (24, 56))
        assert_close(ours, features(model, images, **more))
    return found, assert_round_trip(model, folder)


@pytest.mark.parametrize("case", CLIP)
def test_features_of_clip_are_those_of_transformers(case, tmp_path, run_ours):
    found, kind = check(case, CLIP, tmp_path, run_ours)
    config = found.config
    assert config.gelu == ("erf" if case == "pair, erf" else "quick")
    assert kind == CLIP[case][0].replace("CLIPModel", "CLIPVisionModelWithProjection")
    if case == "pair":
        assert (config.projection, config.num_classes, config.head) == (12, 0, "token")
        aside = [line for line in found.report if line.startswith("set aside")]
        assert aside == [
            "set aside, another network: logit_scale",
            "set aside, another network: text_model.* (20 tensors)",
            "set aside, another network: text_projection.weight",
        ]
    if case == "classifier":
        assert not config.final_norm and config.head == "gap"
        assert found.aside.keys() == {"post_layernorm.weight", "post_layernorm.bias"}


@pytest.mark.parametrize("case", SIGLIP)
def test_features_of_siglip_are_those_of_transformers(case, tmp_path, run_ours):
    found, kind = check(case, SIGLIP, tmp_path, run_ours)
    config = found.config
    assert kind == SIGLIP[case][0].replace("SiglipModel", "SiglipVisionModel")
    assert config.head == ("gap" if "classifier" in case else "map")
    if case == "incomplete patches":
        assert config.grid == (4, 4) and config.image_size == (38, 38)
    if case == "classifier":
        assert "head.probe" in found.aside


def test_a_siglip_without_pooling_gives_the_mean_of_its_tokens(tmp_path, run_ours):
    model = make("SiglipVisionModel", dict(vision_use_head=False))
    model.save_pretrained(tmp_path)
    images = noise(32, 32)
    ours = run_ours(weights.read(tmp_path), images)
    assert_close(ours, features(model, images).mean(1))
    assert_round_trip(model, tmp_path, pooled=lambda tokens: tokens.mean(1))


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_what_a_classifier_does_not_use_survives_the_npz(kind, tmp_path):
    from safetensors.numpy import load_file

    model = make(f"{kind}ForImageClassification", dict(vision={}, num_labels=5))
    model.save_pretrained(tmp_path / "first")
    weights.write(weights.read(tmp_path / "first"), tmp_path / "x.npz")
    weights.write(weights.read(tmp_path / "x.npz"), tmp_path / "second")
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in ("first", "second"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


def test_names_with_the_towers_prefix_are_the_same_model(tmp_path):
    """As in the files on the hub, which transformers 5 still reads."""
    from safetensors.numpy import load_file, save_file

    make("CLIPVisionModel", {}).save_pretrained(tmp_path)
    first = weights.read(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    older = {f"vision_model.{name}": array for name, array in tensors.items()}
    older["vision_model.embeddings.position_ids"] = np.arange(17)[None]
    save_file(older, tmp_path / "model.safetensors")
    second = weights.read(tmp_path)
    assert first.config == second.config
    assert "set aside, another network: vision_model.embeddings.position_ids" in second.report


def test_the_older_description_of_a_tower_takes_precedence(tmp_path):
    """transformers fills what vision_config_dict lacks with its defaults."""
    make("CLIPModel", dict(vision=dict(hidden_act="gelu"))).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert weights.read(tmp_path).config.gelu == "erf"
    older = dict(num_attention_heads=2, image_size=32)
    (tmp_path / "config.json").write_text(json.dumps(dict(config, vision_config_dict=older)))
    assert weights.read(tmp_path).config.gelu == "quick"


def test_what_older_files_say_of_texts_changes_nothing(tmp_path):
    """transformers 4 wrote the fields of every text model into the tower's configuration."""
    make("CLIPModel", dict(vision={})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    first = weights.read(tmp_path).config
    config["vision_config"] |= dict(
        bad_words_ids=None, dropout=0.0, length_penalty=1.0, max_length=20, num_beams=1, top_k=50
    )
    config["vision_config"] |= dict(pruned_heads={}, tie_word_embeddings=True, top_p=1.0)
    config |= dict(vision_config_dict=None, text_config_dict=None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.read(tmp_path).config == first
    config["vision_config"]["pruned_heads"] = {"0": [1]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="vision_config: pruned_heads is"):
        weights.read(tmp_path)


def test_without_its_json_the_gelu_of_clip_is_asked_for(tmp_path):
    make("CLIPModel", dict(vision={})).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="how many attention heads"):
        weights.read(tmp_path)
    with pytest.raises(InputError, match="how it computes GELU; give gelu: tanh, erf or quick"):
        weights.read(tmp_path, num_heads=2)
    assert weights.read(tmp_path, num_heads=2, gelu="quick").config.norm_eps == 1e-5


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(image_size=(32, 16)), r"transformers' CLIP has no model with image_size=\(32, 16\)"),
        (dict(num_classes=5), "transformers' CLIP has no model with .*; write .npz instead"),
    ],
)
def test_what_no_class_has_is_refused_by_name(changes, message, tmp_path):
    make("CLIPVisionModel", {}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        weights.write(weights.read(tmp_path, **changes), tmp_path / "again")

"""MAE, MSN, I-JEPA, AIMv2 and newer names of ViT and DINOv2 as transformers writes them."""

import json

import numpy as np
import pytest

from tests.weights.huggingface_models import assert_close, assert_round_trip, features, make, noise
from vit_jax import weights
from vit_jax.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

IJEPA = ("IJepaForImageClassification", dict(num_labels=5))
AIMV2 = {
    "learned": dict(use_head=False),
    "native": dict(use_head=False, is_native=True, rms_norm_eps=1e-3),
    "with biases": dict(use_head=False, qkv_bias=True, mlp_bias=True),
}
DECODER = dict(
    decoder_hidden_size=16,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=16,
)


def test_mae_without_a_mask(tmp_path, run_ours):
    model = make("ViTMAEForPreTraining", DECODER | dict(mask_ratio=0.0))
    model.save_pretrained(tmp_path)
    images = noise(32, 32)
    found = weights.read(tmp_path)
    with torch.no_grad():  # patches are shuffled, the class token stays the first
        expected = model.vit(torch.from_numpy(images).permute(0, 3, 1, 2)).last_hidden_state[:, 0]
    assert_close(run_ours(found, images), expected.numpy())
    assert any("decoder.* (" in line for line in found.report)
    assert found.config.norm_eps == 1e-12 and found.config.gelu == "erf"
    stored = model.vit.embeddings.position_embeddings.detach().numpy()
    np.testing.assert_array_equal(found.params["posemb"]["embedding"], stored)
    lines = weights.write(found, tmp_path / "again")
    assert "add_pooling_layer=False" in lines[-1]
    again, info = transformers.ViTModel.from_pretrained(
        tmp_path / "again", add_pooling_layer=False, output_loading_info=True
    )
    assert not any(info.values()), info
    assert_close(features(again.eval(), images)[:, 0], expected.numpy())


@pytest.mark.parametrize("newer", [False, True])
def test_msn(newer, tmp_path, run_ours):
    """Its older files have the prefix of the tower on some names alone."""
    model = make("ViTMSNForImageClassification", dict(num_labels=5))
    model.save_pretrained(tmp_path, save_original_format=not newer)
    for size in ((32, 32), (24, 56)):
        images = noise(*size)
        ours = run_ours(weights.read(tmp_path, image_size=size, resample="bicubic"), images)
        assert_close(ours, features(model, images, interpolate_pos_encoding=True))
    assert weights.read(tmp_path).config.norm_eps == 1e-6
    assert assert_round_trip(model, tmp_path) == "ViTForImageClassification"


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Dinov2", "IJepa"])
def test_attention_without_biases(kind, tmp_path, run_ours):
    model = make(f"{kind}ForImageClassification", dict(num_labels=5, qkv_bias=False))
    model.save_pretrained(tmp_path)
    images = noise(32, 32)
    found = weights.read(tmp_path)
    assert found.config.qkv_bias == "none"
    assert_close(run_ours(found, images), features(model, images))
    assert assert_round_trip(model, tmp_path) == f"{kind}ForImageClassification"


def test_ijepa(tmp_path, run_ours):
    model = make(*IJEPA)
    model.save_pretrained(tmp_path)
    for size in ((32, 32), (24, 56)):
        images = noise(*size)
        ours = run_ours(weights.read(tmp_path, image_size=size, resample="bicubic"), images)
        assert_close(ours, features(model, images, interpolate_pos_encoding=True))
    assert assert_round_trip(model, tmp_path) == IJEPA[0]


def test_ijepa_without_a_classifier_gives_the_mean(tmp_path, run_ours):
    model = make("IJepaModel", {})
    model.save_pretrained(tmp_path)
    images = noise(32, 32)
    assert_close(run_ours(weights.read(tmp_path), images), features(model, images).mean(1))
    assert assert_round_trip(model, tmp_path, lambda tokens: tokens.mean(1)) == "IJepaModel"


@pytest.mark.parametrize("case", AIMV2)
def test_aimv2(case, tmp_path, run_ours):
    model = make("Aimv2VisionModel", AIMV2[case])
    model.save_pretrained(tmp_path)
    for size in ((32, 32), (24, 56)) if case == "native" else ((32, 32),):
        images = noise(*size)
        ours = run_ours(weights.read(tmp_path, image_size=size), images)
        assert_close(ours, features(model, images).mean(1))
    kind = assert_round_trip(model, tmp_path, lambda tokens: tokens.mean(1))
    assert kind == "Aimv2VisionModel"


def test_the_attention_pooling_of_aimv2_is_kept_aside(tmp_path, run_ours):
    model = make("Aimv2Model", dict(vision={}))
    model.save_pretrained(tmp_path)
    images = noise(32, 32)
    found = weights.read(tmp_path)
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        tokens = model.vision_model(pixels).last_hidden_state
    assert_close(run_ours(found, images), tokens.mean(1).numpy())
    report = "\n".join(found.report)
    assert "note: features are the mean of the patches here, not AIMv2's attention" in report
    assert "set aside, another network: visual_projection.weight" in report
    assert "head.cls_token" in found.aside


def test_the_attention_pooling_of_aimv2_is_written_again(tmp_path):
    model = make("Aimv2VisionModel", dict(use_head=True))
    model.save_pretrained(tmp_path)
    assert assert_round_trip(model, tmp_path) == "Aimv2VisionModel"


@pytest.mark.parametrize(
    "kind, options",
    [
        ("ViTForImageClassification", dict(num_labels=5)),
        ("DeiTForImageClassificationWithTeacher", dict(num_labels=5)),
        ("Dinov2ForImageClassification", dict(num_labels=5)),
        ("Dinov2ForImageClassification", dict(num_labels=5, use_swiglu_ffn=True)),
        ("Dinov2WithRegistersModel", dict(num_register_tokens=2)),
        ("Dinov2Model", dict(qkv_bias=False)),
        IJEPA,
        ("ViTMAEForPreTraining", DECODER),
    ],
)
def test_the_newer_names_are_the_same_model(kind, options, tmp_path):
    model = make(kind, options)
    model.save_pretrained(tmp_path / "old")
    model.save_pretrained(tmp_path / "new", save_original_format=False)
    old, new = (weights.read(tmp_path / name) for name in ("old", "new"))
    assert old.config == new.config
    for name in ("old", "new"):
        weights.write(weights.read(tmp_path / name), tmp_path / f"{name}.npz")
    with np.load(tmp_path / "old.npz") as a, np.load(tmp_path / "new.npz") as b:
        assert sorted(a) == sorted(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# Names of networks that are no plain ViT, as timm has them; the last has no place in ours.
OTHERS = {
    "Swin": ["patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"],
    "RegNet": ["stem.conv.weight", "head.fc.weight", "s1.b1.conv1.conv.weight"],
    "DaViT": ["stem.conv.weight", "head.fc.weight", "stages.0.blocks.0.0.attn.qkv.weight"],
    "VOLO": ["patch_embed.proj.weight", "pos_embed", "norm.weight", "network.0.0.attn.v.weight"],
    "CaiT": [
        *("patch_embed.proj.weight", "pos_embed", "norm.weight", "blocks.0.gamma_1"),
        *("blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight", "blocks.0.attn.proj_l.weight"),
    ],
}


@pytest.mark.parametrize("network", OTHERS)
def test_another_kind_of_network_is_of_no_known_family(network, tmp_path):
    from safetensors.numpy import save_file

    names = OTHERS[network]
    save_file({name: np.zeros((8, 8), np.float32) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="x.safetensors: its tensors are of no known fam") as error:
        weights.read(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value) and names[-1] in str(error.value)


def test_an_unknown_family_is_told_apart_from_the_nearest(tmp_path):
    from safetensors.numpy import load_file, save_file

    make("CLIPVisionModel", {}).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["strange.weight"] = np.zeros(3, np.float32)
    renamed = {name.replace("pre_layrnorm", "pre_layernorm"): x for name, x in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    message = (
        r"of no known family; nearest is Hugging Face CLIP.* with 37 of 40, which has no place "
        r"for pre_layernorm.bias, pre_layernorm.weight, strange.weight"
    )
    with pytest.raises(InputError, match=message):
        weights.read(tmp_path)


def test_a_field_of_another_network_is_refused(tmp_path):
    make(*IJEPA).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | dict(mask_ratio=0.5)))
    with pytest.raises(InputError, match="mask_ratio is 0.5; this field is not known here"):
        weights.read(tmp_path)

"""Weights given back: bit for bit, under names that the other program's own loader accepts."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import fields

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

from vit_jax.errors import InputError
from vit_jax.models import identify, model_config
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import option
from vit_jax.weights import Weights, read, refit, write
from vit_jax.weights.record import parameter_shapes

SMALL = dict(width=24, depth=2, mlp_dim=40, num_heads=3, patch_size=4, image_size=(8, 12))
PLAIN = dict(SMALL, num_classes=5)
MODELS = {
    "plain": ("ViT-B/16", PLAIN),
    "patch not square": ("ViT-B/16", dict(PLAIN, patch_size=(4, 6))),
    "headless with pre_logits": ("ViT-B/16", dict(PLAIN, num_classes=0, pre_logits=-1)),
    "pre_logits": ("ViT-B/16", dict(PLAIN, pre_logits=17)),
    "gap": ("ViT-B/16", dict(PLAIN, head="gap")),
    "norm after the mean": ("ViT-B/16", dict(PLAIN, head="gap", pool_then_norm=True)),
    "gap and class token": ("ViT-B/16", dict(PLAIN, head="gap", class_token=True)),
    "map": ("ViT-B/16", dict(PLAIN, head="map")),
    "shared positions": ("ViT-B/16", dict(PLAIN, posemb_where="layers_shared")),
    "no class position": ("ViT-B/16", dict(PLAIN, posemb_class_slot=False)),
    "registers": ("ViT-B/16", dict(PLAIN, registers=2, posemb_class_slot=False)),
    "register positions": ("ViT-B/16", dict(PLAIN, registers=2, posemb_register_slots=True)),
    "dinov2": (
        "ViT-B/16",
        dict(PLAIN, mlp_dim=48, registers=2, layer_scale=0.1, head="token_gap"),
    ),
    "gated": (
        "ViT-B/16",
        dict(PLAIN, mlp_dim=64, mlp="swiglu", layer_scale=0.1, head="token_gap"),
    ),
    "distilled": ("ViT-B/16", dict(PLAIN, distillation="head")),
    "distillation token": ("ViT-B/16", dict(PLAIN, distillation="token", gelu="erf")),
    "qk norm": ("ViT-B/16", dict(PLAIN, qk_norm=True, norm_eps=1e-5)),
    "hybrid": ("R50+ViT-B/16", dict(PLAIN, patch_size=1, image_size=32, resnet_stages=(1, 2))),
    "hybrid of timm": ("R26+ViT-S/32", dict(PLAIN, patch_size=1, image_size=32)),
    "root alone": ("R+ViT-Ti/16", dict(PLAIN, patch_size=8, image_size=32)),
    "bit": ("BiT-R50x1", dict(resnet_stages=(1, 2), num_classes=5)),
    "published bit": ("BiT-R50x1", dict(resnet_stages=(1, 2), num_classes=5, preact=True)),
}
NOT_IN_TIMM = {
    "shared positions",
    "dinov2",
    "gated",
    "distillation token",
    "hybrid",
    "bit",
    "published bit",
}
IN_HUGGINGFACE = {
    "plain",
    "patch not square",
    "headless with pre_logits",
    "dinov2",
    "gated",
    "distilled",
    "distillation token",
    "hybrid",
    "root alone",
    "bit",
    "published bit",
}


def random_weights(case, **more):
    name, options = MODELS[case]
    config = model_config(name, **{**options, **more})
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    name, options = identify(config)
    return Weights(
        name=name,
        options=options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp="resize((8, 12))|value_range(-1, 1)",
        labels=list("abcde")[: config.num_classes],
    )


def assert_same(a, b):
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


@pytest.mark.parametrize("case", MODELS)
def test_npz_and_back(case, tmp_path):
    weights = random_weights(case)
    write(weights, tmp_path / "x.npz")
    again = read(tmp_path / "x.npz")
    assert_same(weights, again)
    assert again.config == weights.config
    assert (again.labels, again.pp) == (weights.labels, weights.pp)


@pytest.mark.parametrize("case", sorted(MODELS.keys() - NOT_IN_TIMM))
@pytest.mark.parametrize("name", ["x.safetensors", "folder"])
def test_timm_and_back(case, name, tmp_path):
    weights = random_weights(case)
    write(weights, tmp_path / name, format="timm")
    again = read(tmp_path / name)
    assert_same(weights, again)
    assert again.config == weights.config
    assert (again.labels, again.pp) == (weights.labels, weights.pp)


def test_timms_bit_and_back(tmp_path):
    weights = random_weights("published bit", resnet_stages=None)
    lines = write(weights, tmp_path / "folder", format="timm")
    assert any("1e-8 to the variance" in line for line in lines)
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["architecture"] == (
        "resnetv2_50x1_bit"
    )
    assert_same(weights, read(tmp_path / "folder"))


@pytest.mark.parametrize("case", sorted(MODELS.keys() - NOT_IN_TIMM))
def test_timm_without_our_key_is_the_same_network(case, tmp_path):
    """config.json alone tells what timm users need: the arguments of the architecture."""
    weights = random_weights(case, gelu="erf")
    write(weights, tmp_path / "folder", format="timm")
    document = json.loads((tmp_path / "folder" / "config.json").read_text())
    del document["vit_jax"]
    (tmp_path / "folder" / "config.json").write_text(json.dumps(document))
    again = read(tmp_path / "folder")
    assert_same(weights, again)
    told = dict(norm_eps=weights.config.norm_eps, resnet_norm_eps=None, resnet_conv_eps=None)
    for key, value in dict(image_size=weights.config.image_size, **told).items():
        assert key not in again.options or value is None or again.options[key] == value
    assert again.labels == weights.labels


@pytest.mark.parametrize("case", sorted(IN_HUGGINGFACE))
def test_huggingface_and_back(case, tmp_path):
    weights = random_weights(case)
    write(weights, tmp_path / "folder")
    again = read(tmp_path / "folder")
    assert_same(weights, again)
    assert again.labels == weights.labels
    stems = dict(resnet_norm_eps=None, resnet_conv_eps=None)
    ours, theirs = ({**identify(w.config)[1], **stems} for w in (weights, again))
    assert ours == theirs


@pytest.mark.parametrize("case", sorted(IN_HUGGINGFACE - {"hybrid", "root alone"}))
def test_transformers_loads_what_is_written(case, tmp_path, run_ours, run_torch):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    weights = random_weights(case, **({} if "bit" in case else dict(gelu="erf")))
    size = (32, 36) if case == "patch not square" else (32, 32)
    weights = refit(weights, resample="bilinear", image_size=size)
    scale = jax.tree.map(lambda x: x * 0.2, weights.params)
    weights = Weights(**{**vars(weights), "params": scale})
    write(weights, tmp_path / "folder")
    kind = json.loads((tmp_path / "folder" / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "folder", output_loading_info=True
    )
    assert not any(info.values()), info
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    out = run_torch(model.eval(), images)
    expected = out.logits if hasattr(out, "logits") else out.pooler_output
    np.testing.assert_allclose(run_ours(weights, images), expected, atol=1e-4)
    transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")


def test_vision_transformers_names(tmp_path):
    """The names of vision_transformer, one by one."""
    write(random_weights("pre_logits"), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        shapes = {name: file[name].shape for name in file}
    block = {
        "LayerNorm_0/scale": (24,),
        "LayerNorm_0/bias": (24,),
        "LayerNorm_2/scale": (24,),
        "LayerNorm_2/bias": (24,),
        "MultiHeadDotProductAttention_1/query/kernel": (24, 3, 8),
        "MultiHeadDotProductAttention_1/query/bias": (3, 8),
        "MultiHeadDotProductAttention_1/key/kernel": (24, 3, 8),
        "MultiHeadDotProductAttention_1/key/bias": (3, 8),
        "MultiHeadDotProductAttention_1/value/kernel": (24, 3, 8),
        "MultiHeadDotProductAttention_1/value/bias": (3, 8),
        "MultiHeadDotProductAttention_1/out/kernel": (3, 8, 24),
        "MultiHeadDotProductAttention_1/out/bias": (24,),
        "MlpBlock_3/Dense_0/kernel": (24, 40),
        "MlpBlock_3/Dense_0/bias": (40,),
        "MlpBlock_3/Dense_1/kernel": (40, 24),
        "MlpBlock_3/Dense_1/bias": (24,),
    }
    assert shapes == {
        "cls": (1, 1, 24),
        "embedding/kernel": (4, 4, 3, 24),
        "embedding/bias": (24,),
        "Transformer/posembed_input/pos_embedding": (1, 7, 24),
        **{f"Transformer/encoderblock_{i}/{k}": v for i in range(2) for k, v in block.items()},
        "Transformer/encoder_norm/scale": (24,),
        "Transformer/encoder_norm/bias": (24,),
        "pre_logits/kernel": (24, 17),
        "pre_logits/bias": (17,),
        "head/kernel": (17, 5),
        "head/bias": (5,),
    }


def test_big_visions_names_where_vision_transformer_has_none(tmp_path):
    write(random_weights("map"), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        names = set(file)
    assert "pos_embedding" in names
    assert "Transformer/encoderblock_1/MlpBlock_0/Dense_1/kernel" in names
    assert "MAPHead_0/MultiHeadDotProductAttention_0/query/kernel" in names
    assert not any("_2/" in name or "_3/" in name for name in names)


def test_hybrid_and_bit_names(tmp_path):
    write(random_weights("hybrid"), tmp_path / "hybrid.npz")
    write(random_weights("published bit"), tmp_path / "bit.npz")
    with np.load(tmp_path / "hybrid.npz") as file:
        assert file["conv_root/kernel"].shape == (7, 7, 3, 64)
        assert file["block2/unit2/gn3/scale"].shape == (512,)
        assert file["embedding/kernel"].shape == (1, 1, 512, 24)
    with np.load(tmp_path / "bit.npz") as file:
        assert file["resnet/head/conv2d/kernel"].shape == (1, 1, 512, 5)
        name = "resnet/block1/unit01/a/proj/standardized_conv2d/kernel"
        assert file[name].shape == (1, 1, 64, 256)


@pytest.mark.parametrize("case", ["vit", "dinov2", "registers", "teacher", "bit"])
def test_a_huggingface_directory_to_npz_and_back_bit_for_bit(case, randomise, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tiny = dict(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    kinds = dict(
        vit=("ViTForImageClassification", transformers.ViTConfig(**tiny)),
        dinov2=("Dinov2ForImageClassification", transformers.Dinov2Config(**tiny)),
        registers=(
            "Dinov2WithRegistersForImageClassification",
            transformers.Dinov2WithRegistersConfig(**tiny),
        ),
        teacher=("DeiTForImageClassificationWithTeacher", transformers.DeiTConfig(**tiny)),
        bit=(
            "BitForImageClassification",
            transformers.BitConfig(
                embedding_size=64, hidden_sizes=[256, 512], depths=[1, 1], num_labels=3
            ),
        ),
    )
    name, config = kinds[case]
    kind = getattr(transformers, name)
    model = randomise(kind(config))
    model.save_pretrained(tmp_path / "first")
    write(read(tmp_path / "first"), tmp_path / "x.npz")
    write(read(tmp_path / "x.npz"), tmp_path / "second")
    first, second = (load_file(tmp_path / f / "model.safetensors") for f in ("first", "second"))
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    files = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("first", "second")]
    assert files[0] == files[1]
    again = kind.from_pretrained(tmp_path / "second")
    told = set(json.loads((tmp_path / "second" / "config.json").read_text()))
    ours, theirs = again.config.to_dict(), model.config.to_dict()
    told -= {"_name_or_path", "transformers_version"}
    assert {k: ours[k] for k in told} == {k: theirs.get(k, ours[k]) for k in told}


@pytest.mark.parametrize(
    "case,path,format,message",
    [
        ("map", "folder", "", "transformers' SigLIP has no model with head='map'"),
        ("shared positions", "folder", "", "posemb_where='layers_shared'; write .npz instead"),
        ("shared positions", "folder", "timm", "timm has no model with posemb_where="),
        ("qk norm", "folder", "", "qk_norm=True; write .npz instead"),
        ("dinov2", "folder", "timm", "timm has no model with head='token_gap'"),
        ("bit", "folder", "timm", "no post-activation BiT"),
        ("published bit", "folder", "timm", r"no BiT-R26x1 with stages \(1, 2\)"),
        ("hybrid", "folder", "timm", r"no R26\+ViT-Ti/16 with stages \(1, 2\)"),
        ("plain", "folder", "tim", "did you mean 'timm'"),
        ("plain", "x.npz", "timm", "format timm is written to"),
        ("plain", "x.h5", "", "no format ends in .h5; write one of .npz, .onnx, .safetensors, "),
    ],
)
def test_what_a_format_lacks_is_refused(case, path, format, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write(random_weights(case), tmp_path / path, format=format)
    assert not (tmp_path / path).exists()


def test_nothing_is_overwritten(tmp_path):
    write(random_weights("plain"), tmp_path / "x.npz")
    with pytest.raises(InputError, match="exists; give another path"):
        write(random_weights("plain"), tmp_path / "x.npz")


KILLED = """
import os, signal, sys
from vit_jax.models import create_model, split
from vit_jax.weights import Weights, write
options = dict(width=8, depth=1, mlp_dim=8, num_heads=2, image_size=(8, 8), num_classes=2)
model = create_model("ViT-Ti/4", **options)
weights = Weights(name="ViT-Ti/4", options=options, params=split(model)[1], pp="", source="test")
if sys.argv[2] != "never":
    def kill(event, args):
        written = event == "open" and ".partial" in str(args[0]) and "w" in str(args[1])
        if event == sys.argv[2] and (written or event == "os.rename"):
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(kill)
write(weights, sys.argv[1])
"""


@pytest.mark.parametrize("event", ["open", "os.rename"])
@pytest.mark.parametrize("name", ["x.npz", "folder"])
def test_a_kill_leaves_nothing_under_the_final_name(name, event, tmp_path):
    def convert(when):
        words = [sys.executable, "-c", KILLED, str(tmp_path / name), when]
        return subprocess.run(words, capture_output=True).returncode

    assert convert(event) == -signal.SIGKILL
    assert os.listdir(tmp_path) == [f".{name}.partial"]
    assert convert("never") == 0
    assert name in os.listdir(tmp_path) and f".{name}.partial" not in os.listdir(tmp_path)
    read(tmp_path / name)


def test_what_the_other_program_does_differently_is_said(tmp_path):
    lines = write(random_weights("distillation token"), tmp_path / "x.npz")
    assert any("GELU by tanh" in line for line in lines)
    assert "vision_transformer has no distillation" in lines
    lines = write(random_weights("shared positions"), tmp_path / "y.npz")
    assert "vision_transformer has no posemb_where" in lines
    lines = write(random_weights("qk norm", norm_eps=1e-4), tmp_path / "x.safetensors")
    assert "timm's norm epsilon is 1e-6, not 0.0001" in lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempered(ViTConfig):
    """A model with an option that came after the formats, and one that only training uses."""

    temperature: float = option(1.0, "of attention")
    undeclared: bool = False
    mask_ratio: float = option(0.0, "of patches in training", effect="training")


@pytest.mark.parametrize("path, format", [("x.npz", ""), ("folder", ""), ("x.safetensors", "")])
@pytest.mark.parametrize("changed", [dict(temperature=2.0), dict(undeclared=True)])
def test_an_option_that_a_format_does_not_know_is_refused(
    path, format, changed, tmp_path, monkeypatch
):
    weights = random_weights("plain", gelu="erf")
    plain = {field.name: getattr(weights.config, field.name) for field in fields(ViTConfig)}
    monkeypatch.setattr(Weights, "config", Tempered(**plain, mask_ratio=0.5, **changed))
    (name,) = changed
    with pytest.raises(InputError, match=f"no model with {name}="):
        write(weights, tmp_path / path, format=format)
    assert not (tmp_path / path).exists()
    monkeypatch.setattr(Weights, "config", Tempered(**plain, mask_ratio=0.5))
    write(weights, tmp_path / path, format=format)  # at their defaults they mean nothing

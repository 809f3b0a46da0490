"""Files that transformers writes: the same logits here, and the same bytes on the way back."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from vit_jax import weights
from vit_jax.errors import InputError
from vit_jax.models import model_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = dict(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    image_size=32,
    patch_size=8,
    num_labels=5,
)
REAL = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
BIT = dict(embedding_size=64, hidden_sizes=[256, 512], depths=[1, 2], num_labels=5)
CASES = {
    "vit": ("ViTForImageClassification", "ViTConfig", TINY),
    "vit-not-square": (
        "ViTForImageClassification",
        "ViTConfig",
        dict(TINY, image_size=(32, 52), patch_size=(8, 10)),
    ),
    "vit-tanh": (
        "ViTForImageClassification",
        "ViTConfig",
        dict(TINY, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3),
    ),
    "vit-ti16": ("ViTForImageClassification", "ViTConfig", dict(REAL, num_labels=7)),
    "vit-base-model": ("ViTModel", "ViTConfig", TINY),
    "deit": ("DeiTForImageClassification", "DeiTConfig", TINY),
    "deit-teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", TINY),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", TINY),
    "dinov2-giant-mlp": (
        "Dinov2ForImageClassification",
        "Dinov2Config",
        dict(TINY, use_swiglu_ffn=True),
    ),
    "dinov2-base-model": ("Dinov2Model", "Dinov2Config", TINY),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        dict(TINY, num_register_tokens=3),
    ),
    "bit": ("BitForImageClassification", "BitConfig", BIT),
    "bit-postactivation": (
        "BitForImageClassification",
        "BitConfig",
        dict(
            BIT,
            layer_type="bottleneck",
            global_padding="SAME",
            embedding_dynamic_padding=True,
        ),
    ),
}


@pytest.fixture
def saved(tmp_path, randomise):
    """(case) -> the model; transformers has written it to tmp_path."""

    def save(case):
        kind, config, options = CASES[case]
        config = getattr(transformers, config)(**options)
        model = randomise(getattr(transformers, kind)(config))
        model.save_pretrained(tmp_path)
        return model

    return save


def noise(size):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, saved, tmp_path, run_ours, run_torch):
    model = saved(case)
    published = weights.read(tmp_path)
    bit = case.startswith("bit")
    size = model_config(published.name, **published.options).image_size
    images = noise((70, 64) if bit else size)
    out = run_torch(model, images)
    expected = out.logits if hasattr(out, "logits") else out.pooler_output
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)


def test_structure_is_read_from_the_file(saved, tmp_path):
    saved("dinov2-registers")
    published = weights.read(tmp_path)
    config = model_config(published.name, **published.options)
    assert (config.head, config.registers, config.layer_scale) == ("token_gap", 3, 1.0)
    assert (config.gelu, config.norm_eps, config.num_heads) == ("erf", 1e-6, 4)
    assert published.aside.keys() == {"mask_token"}
    assert "kept aside, no part of a classifier: mask_token" in published.report


@pytest.mark.parametrize(
    "case,method",
    [("vit", "bicubic"), ("dinov2", "bicubic"), ("dinov2-registers", "bicubic_antialias")],
)
def test_another_resolution_equals_transformers(case, method, saved, tmp_path, run_ours, run_torch):
    """transformers resizes positions at run time, with antialias in one family alone."""
    model = saved(case)
    published = weights.read(tmp_path, image_size=(24, 56), resample=method)
    images = noise((24, 56))
    more = dict(interpolate_pos_encoding=True) if case == "vit" else {}
    expected = run_torch(model, images, **more).logits
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)
    assert any(
        line.startswith("resized: posemb/embedding (1, 17, 48)") for line in published.report
    )


def test_labels_and_preprocessing_travel(saved, tmp_path):
    saved("vit")
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate("abcde")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = transformers.ViTImageProcessor(size=32, image_mean=[0.1, 0.2, 0.3], resample=3)
    processor.save_pretrained(tmp_path)
    published = weights.read(tmp_path)
    assert published.labels == list("abcde")
    assert published.pp == (
        "resize(32, method='bicubic', antialias=True)"
        "|normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))"
    )
    assert weights.read(tmp_path, num_classes=3).labels == []


def test_shards_and_pickles_hold_the_same(saved, tmp_path):
    model = saved("vit")
    first = weights.read(tmp_path).params
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    tensors = load_file(tmp_path / "model.safetensors")
    wrapped = {"model": {name: torch.from_numpy(array) for name, array in tensors.items()}}
    (tmp_path / "pickle").mkdir()
    torch.save(wrapped, tmp_path / "pickle" / "pytorch_model.bin")
    (tmp_path / "config.json").rename(tmp_path / "pickle" / "config.json")
    for folder in ("shards", "pickle"):
        jax.tree.map(np.testing.assert_array_equal, first, weights.read(tmp_path / folder).params)


def test_what_is_not_supported_is_named(saved, tmp_path):
    saved("bit")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(dict(config, num_groups=8)))
    with pytest.raises(InputError, match="num_groups is 8; it is not supported, only 32"):
        weights.read(tmp_path)

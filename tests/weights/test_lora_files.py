"""Adapters in peft's files: read onto transformers' models, and refused."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vit_jax
from tests.weights.lora_models import (
    KINDS,
    MODULES,
    RANK,
    assert_close,
    base_model,
    logits_of,
    ours_of,
    pixels,
    transformers,
    with_peft,
)
from vit_jax.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_peft_writes(kind, tmp_path):
    targets = ("query", "value") if kind == "dinov2" else tuple(MODULES)
    adapted = with_peft(base_model(kind, tmp_path / "base"), targets, use_rslora=len(targets) > 2)
    adapted.save_pretrained(tmp_path / "adapter")
    model, info = vit_jax.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert_close(ours_of(model, pixels()), logits_of(adapted, pixels()))
    assert any("LoRA updates merged" in line for line in info.report)


def test_an_adapter_with_a_head_for_a_backbone_without(tmp_path):
    adapted = with_peft(base_model("dinov2", tmp_path / "whole"))
    adapted.save_pretrained(tmp_path / "adapter")
    backbone = transformers.Dinov2Model.from_pretrained(tmp_path / "whole")
    backbone.save_pretrained(tmp_path / "base")
    model, _ = vit_jax.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert_close(ours_of(model, pixels()), logits_of(adapted, pixels()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with a base model and an adapter of queries and values."""
    folder = tmp_path_factory.mktemp("plain")
    with_peft(base_model("vit", folder / "base")).save_pretrained(folder / "adapter")
    return folder


def change_config(folder, **options):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def change_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


STEM = "base_model.model.vit.layers.1.attention.q_proj"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: change_config(f, use_dora=True), "use_dora is True"),
        (lambda f: change_config(f, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda f: change_config(f, bias="all"), "bias is 'all'"),
        (lambda f: change_config(f, init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (lambda f: change_config(f, alpha_pattern=dict(q=3)), "alpha_pattern"),
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model"),
        (
            lambda f: change_tensors(f, lambda t: t.pop(f"{STEM}.lora_A.weight")),
            "layers.1.attention.q_proj is no pair",
        ),
        (
            lambda f: change_tensors(
                f,
                lambda t: [
                    t.__setitem__(name.replace("layers.1", "layers.7"), t.pop(name))
                    for name in list(t)
                ],
            ),
            "has no place for vit.layers.7.attention.q_proj",
        ),
        (
            lambda f: change_tensors(
                f, lambda t: t.update({f"{STEM}.lora_B.weight": np.ones((5, RANK), np.float32)})
            ),
            "has shape \\(5, 24\\)",
        ),
        (
            lambda f: change_tensors(
                f,
                lambda t: t.update(
                    {"base_model.model.classifier.weight": np.ones((10, 7), np.float32)}
                ),
            ),
            "classifier.weight has shape \\(10, 7\\)",
        ),
    ],
)
def test_adapters_that_are_refused(change, message, plain, tmp_path):
    base = plain / "base"
    shutil.copytree(plain / "adapter", tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(InputError, match=message):
        vit_jax.load(base, adapter=tmp_path / "adapter")

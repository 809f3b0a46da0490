"""Google's files with ResNets: hybrids and BiT, against transformers."""

import re

import numpy as np
import pytest

from vit_jax import weights
from vit_jax.models import model_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.weights.test_google import VIT, create, google, images_of  # noqa: E402  needs torch

BIT = dict(embedding_size=64, hidden_sizes=[256, 512], depths=[1, 2], num_labels=5)
HYBRID_STEM = dict(
    BIT, layer_type="bottleneck", global_padding="SAME", embedding_dynamic_padding=True
)


def google_resnet(tensors, squeezed):
    """The hybrids of vision_transformer; stored group-norm vectors may be (1, 1, 1, C)."""
    shape = (-1,) if squeezed else (1, 1, 1, -1)
    out = {}
    for name, array in tensors.items():
        name = name.removeprefix("bit.")
        name = name.replace("embedder.convolution.", "conv_root.").replace(
            "embedder.norm", "gn_root"
        )
        name = re.sub(
            r"encoder\.stages\.(\d+)\.layers\.(\d+)\.",
            lambda m: f"block{int(m[1]) + 1}.unit{int(m[2]) + 1:02}.",
            name,
        )
        name = name.replace("downsample.conv", "conv_proj").replace("downsample.norm", "gn_proj")
        name = re.sub(r"\.norm(\d)\.", r".gn\1.", name)
        if array.ndim == 4:
            out[name.replace(".weight", ".kernel").replace(".", "/")] = array.transpose(2, 3, 1, 0)
        else:
            out[name.replace(".weight", ".scale").replace(".", "/")] = array.reshape(shape)
    return out


@pytest.mark.parametrize("squeezed", [True, False])
def test_hybrids(squeezed, randomise, tmp_path_factory, tmp_path, run_ours, run_torch):
    resnet, stem = create(randomise, tmp_path_factory, "BitModel", "BitConfig", HYBRID_STEM)
    options = dict(VIT, num_channels=512, patch_size=1, image_size=(8, 8))
    vit, tensors = create(
        randomise, tmp_path_factory, "ViTForImageClassification", "ViTConfig", options
    )
    np.savez(tmp_path / "r.npz", **google(tensors), **google_resnet(stem, squeezed))
    published = weights.read(tmp_path / "r.npz")
    config = model_config(published.name, **published.options)
    assert (config.resnet_stages, config.patch_size) == ((1, 2), (1, 1))
    assert config.image_size == (64, 64)
    images = images_of((64, 64))
    features = run_torch(resnet, images).last_hidden_state.permute(0, 2, 3, 1).numpy()
    expected = run_torch(vit, features).logits
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)


def published_bit(tensors):
    """The names of gs://bit_models."""
    out = {}
    for name, array in tensors.items():
        name = name.removeprefix("bit.")
        unit = re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(.*)", name)
        last = {"weight": "gamma", "bias": "beta"}[name.split(".")[-1]]
        if unit:
            block = f"resnet/block{int(unit[1]) + 1}/unit{int(unit[2]) + 1:02}"
            part = unit[3]
            if part.startswith("downsample"):
                name = f"{block}/a/proj/standardized_conv2d/kernel"
            elif part.startswith("conv"):
                name = f"{block}/{'abc'[int(part[4]) - 1]}/standardized_conv2d/kernel"
            else:
                name = f"{block}/{'abc'[int(part[4]) - 1]}/group_norm/{last}"
        elif name.startswith("embedder"):
            name = "resnet/root_block/standardized_conv2d/kernel"
        elif name.startswith("norm"):
            name = f"resnet/group_norm/{last}"
        else:
            name = f"resnet/head/conv2d/{'kernel' if array.ndim == 2 else 'bias'}"
            array = array.T[None, None] if array.ndim == 2 else array
        out[name] = array.transpose(2, 3, 1, 0) if "standardized" in name else array
    return out


def big_vision_bit(tensors):
    """bit_paper.py's names of the same."""
    out = {}
    for name, array in tensors.items():
        name = name.replace("resnet/root_block/standardized_conv2d", "root_block/conv_root")
        name = name.replace("resnet/head/conv2d", "head").replace(
            "resnet/group_norm", "norm-pre-head"
        )
        name = name.replace("/a/proj/standardized_conv2d", "/conv_proj").removeprefix("resnet/")
        for i, part in enumerate("abc", 1):
            name = name.replace(f"/{part}/standardized_conv2d", f"/conv{i}")
            name = name.replace(f"/{part}/group_norm", f"/gn{i}")
        name = name.replace("gamma", "scale").replace("beta", "bias")
        if name == "head/kernel":
            array = array[0, 0]
        elif array.ndim == 1 and name != "head/bias":
            array = array.reshape(1, 1, 1, -1)
        out[name] = array
    return out


@pytest.mark.parametrize("layout", [lambda t: t, big_vision_bit], ids=["published", "big_vision"])
def test_bit(layout, randomise, tmp_path_factory, tmp_path, run_ours, run_torch):
    model, tensors = create(
        randomise, tmp_path_factory, "BitForImageClassification", "BitConfig", BIT
    )
    np.savez(tmp_path / "bit.npz", **layout(published_bit(tensors)))
    # transformers adds another epsilon to the kernels' variance than the published code.
    published = weights.read(tmp_path / "bit.npz", resnet_conv_eps=1e-8)
    assert published.options["preact"]
    images = images_of((70, 64))
    expected = run_torch(model, images).logits
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)

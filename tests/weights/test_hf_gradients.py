"""Gradients of every parameter against torch, for a model of each part of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.weights.huggingface_models import make, noise
from vit_jax import models, weights

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

CASES = {
    "rotary, registers, LayerScale, no bias of keys": (
        "DINOv3ViTModel",
        dict(num_register_tokens=2),
        "pooler_output",
    ),
    "gated MLP": (
        "DINOv3ViTModel",
        dict(use_gated_mlp=True, hidden_act="silu"),
        "pooler_output",
    ),
    "norm before the blocks, quick GELU, projection": (
        "CLIPVisionModelWithProjection",
        dict(hidden_act="quick_gelu", projection_dim=24),
        "image_embeds",
    ),
    "attention pooling": ("SiglipVisionModel", {}, "pooler_output"),
    "table of position biases, norm after the mean": (
        "BeitModel",
        dict(use_relative_position_bias=True, layer_scale_init_value=0.1),
        "pooler_output",
    ),
    "RMS norms, norm of the patches, no biases": (
        "Aimv2VisionModel",
        dict(use_head=False),
        "last_hidden_state",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_torch(case, tmp_path):
    """torch's gradients are stored as if they were weights, and so read under our names."""
    kind, options, output = CASES[case]
    model = make(kind, options)
    model.save_pretrained(tmp_path / "values")
    images = noise(32, 32)
    out = getattr(model(torch.from_numpy(images).permute(0, 3, 1, 2)), output)
    out = out.mean(1) if out.ndim == 3 else out
    cotangent = np.random.default_rng(2).normal(size=out.shape).astype(np.float32)
    (out * torch.from_numpy(cotangent)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            grad = parameter.grad
            parameter.copy_(torch.zeros_like(parameter) if grad is None else grad)
    model.save_pretrained(tmp_path / "gradients")

    found = weights.read(tmp_path / "values")
    graphdef, _ = models.abstract(lambda rngs: models.build_model(found.config, rngs))

    def loss(params):
        return (models.merge(graphdef, params)(jnp.asarray(images)) * cotangent).sum()

    ours = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(found.params), sep="/")
    read = weights.read(tmp_path / "gradients")
    theirs = traverse_util.flatten_dict(read.params, sep="/")
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        if path.endswith("qkv/bias"):
            # A bias of the keys changes no softmax: what torch has there is rounding.
            ours[path], expected = (np.delete(np.asarray(g), 1, 1) for g in (ours[path], expected))
        scale = max(np.abs(expected).max(), 1e-3)
        np.testing.assert_allclose(ours[path], expected, atol=2e-4 * scale, rtol=0, err_msg=path)

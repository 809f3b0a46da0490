"""Small models of transformers with random parameters, for the tests of each family's files."""

import json

import numpy as np
import pytest

from vit_jax import weights

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
)
TEXT = dict(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=50,
)
TOLERANCE = 1e-4


def make(kind, options):
    """A model of a class of transformers, every parameter drawn at random.

    A pair of towers takes the options under "vision", and a text tower beside them.
    """
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    options = dict(options)
    if "vision" in options:
        options |= dict(vision_config=SIZES | options.pop("vision"), text_config=TEXT)
    else:
        options = SIZES | options
    name, cls = kind if isinstance(kind, tuple) else (None, kind)
    cls = getattr(transformers, cls)
    config = getattr(transformers, name) if name else cls.config_class
    torch.manual_seed(0)
    model = cls(config(**options, attn_implementation="eager"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim in (2, 4) and "table" not in name
            scale = parameter[0].numel() ** -0.5 if matrix else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 1 and "bias" not in name and "class" not in name:
                parameter.add_(1.0)  # scales of norms and of residual branches
    return model.eval()


def noise(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def features(model, images, **options):
    """What a model of transformers makes of images (B, H, W, 3): logits or pooled features."""
    torch = pytest.importorskip("torch")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    if hasattr(model, "get_image_features"):
        options["return_dict"] = True
        model_out = model.get_image_features
    else:
        model_out = model
    with torch.no_grad():
        out = model_out(pixels, **options)
    for name in ("logits", "image_embeds", "pooler_output"):
        if getattr(out, name, None) is not None:
            return getattr(out, name).numpy()
    return out.last_hidden_state.numpy()


def assert_close(actual, expected):
    """Within the tolerance of the largest element."""
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


def assert_round_trip(model, folder, pooled=None, images=None):
    """What was read is written again bit for bit, and transformers makes the same of it."""
    transformers = pytest.importorskip("transformers")
    from safetensors.numpy import load_file

    first = weights.read(folder)
    weights.write(first, folder / "again")
    before = load_file(folder / "model.safetensors")
    after = load_file(folder / "again" / "model.safetensors")
    second = weights.read(folder / "again")
    assert second.config == first.config
    kind = json.loads((folder / "again" / "config.json").read_text())["architectures"][0]
    if kind == type(model).__name__:
        assert before.keys() == after.keys()
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array, err_msg=name)
    again, info = getattr(transformers, kind).from_pretrained(
        folder / "again", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    images = noise(*first.config.image_size) if images is None else images
    pool = pooled or (lambda out: out)
    expected = pool(features(model, images))
    np.testing.assert_allclose(pool(features(again.eval(), images)), expected, rtol=0, atol=1e-6)
    return kind

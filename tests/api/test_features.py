"""Features and maps against transformers and against closed forms; names of intermediates."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from tests.weights.huggingface_models import make
from vit_jax import models
from vit_jax.checkpoint.loaded import Loaded
from vit_jax.errors import InputError
from vit_jax.models.naflex import Patches
from vit_jax.models.outputs import features as outputs

SMALL = dict(width=16, depth=3, mlp_dim=24, num_heads=2, patch_size=4, image_size=(8, 12))
PP = "resize((8, 12))|value_range(-1, 1)"


def build(name="ViT-Ti/16", pp=PP, **options):
    """A small model with random parameters, and its record."""
    if not name.startswith("BiT"):
        options = SMALL | options
    config = models.model_config(name, **dict(num_classes=3) | options)
    model = models.build_model(config, nnx.Rngs(0))
    graphdef, params = models.split(model)
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: jnp.asarray(draw(0.1, 0.4, leaf.shape), jnp.float32), params)
    name, stored = models.identify(config)
    return Loaded(name=name, options=stored, pp=pp, model=models.merge(graphdef, params))


def noise(count, height, width):
    return np.random.default_rng(1).normal(size=(count, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "kind, more",
    [
        ("ViTForImageClassification", {}),
        ("Dinov2ForImageClassification", {}),
        ("Dinov2WithRegistersForImageClassification", dict(num_register_tokens=3)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hidden_states_are_those_of_transformers(kind, more, tmp_path):
    torch = pytest.importorskip("torch")
    theirs = make(kind, dict(num_labels=4, **more))
    theirs.save_pretrained(tmp_path)
    preprocessor = dict(do_resize=True, size=dict(height=32, width=32), do_normalize=True,
                        do_rescale=True, image_mean=[0.5] * 3, image_std=[0.5] * 3)  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    images = noise(3, 32, 32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    base = theirs.base_model
    with torch.no_grad():
        out = base(pixels, output_hidden_states=True)
        states = [state.numpy() for state in out.hidden_states]
        last = out.last_hidden_state.numpy()
    model, info = vit_jax.load(tmp_path)
    assert info.model is model
    tolerance = dict(atol=2e-4 * np.abs(states[-2]).max(), rtol=0)
    found = info.features(images, layers="all", pool="tokens", batch_size=2)
    assert len(found) == len(states) - 1 == 2
    np.testing.assert_allclose(found[0], states[1], **tolerance)
    # transformers' last hidden state is after the norm.
    normed = info.features(images, layers=-1, pool="tokens", norm=True)
    np.testing.assert_allclose(normed, last, **tolerance)
    _, intermediates = model(images, return_intermediates=True)
    np.testing.assert_allclose(intermediates["embedding"], states[0], **tolerance)

    # Maps are the patches by row, as timm's forward_intermediates reshapes them.
    prefix = 1 + more.get("num_register_tokens", 0)
    theirs_map = states[1][:, prefix:].reshape(3, 4, 4, 32)
    grid = info.features(images, layers=0, pool="grid")
    np.testing.assert_allclose(grid, theirs_map, **tolerance)
    np.testing.assert_allclose(
        info.features(images, layers="block00", pool="mean"), theirs_map.mean((1, 2)), **tolerance
    )
    np.testing.assert_allclose(
        info.features(images, pool="cls", norm=True), last[:, 0], **tolerance
    )
    assert list(info.pyramid(images)) == ["block00", "block01"]


def test_stages_of_a_resnet_are_those_of_transformers():
    """Also the last map after the norm of the pre-activation ResNet (BiT, 1912.11370)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    info = build("BiT-R26x1", pp="resize(64)|value_range(-1, 1)", resnet_stages=(1, 2),
                 preact=True, image_size=64)  # fmt: skip
    settings = transformers.BitConfig(
        embedding_size=64, hidden_sizes=[256, 512], depths=[1, 2], num_groups=32, width_factor=1
    )
    theirs = transformers.BitModel(settings).eval()
    ours = info.model.resnet
    with torch.no_grad():

        def kernel(to, conv):
            to.weight.copy_(torch.tensor(np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1)))

        def norm(to, gn):
            to.weight.copy_(torch.tensor(np.asarray(gn.scale[...])))
            to.bias.copy_(torch.tensor(np.asarray(gn.bias[...])))

        kernel(theirs.embedder.convolution, ours.conv_root)
        for i, stage in enumerate(theirs.encoder.stages):
            for j, layer in enumerate(stage.layers):
                unit = getattr(getattr(ours, f"block{i + 1}"), f"unit{j + 1}")
                for k in (1, 2, 3):
                    kernel(getattr(layer, f"conv{k}"), getattr(unit, f"conv{k}"))
                    norm(getattr(layer, f"norm{k}"), getattr(unit, f"gn{k}"))
                if unit.project:
                    kernel(layer.downsample.conv, unit.conv_proj)
        norm(theirs.norm, ours.norm)
        images = noise(2, 64, 64)
        out = theirs(torch.from_numpy(images).permute(0, 3, 1, 2), output_hidden_states=True)
    states = [state.numpy().transpose(0, 2, 3, 1) for state in out.hidden_states]
    maps = info.pyramid(images)
    assert list(maps) == ["stage1", "stage2"]
    assert [value.shape for value in maps.values()] == [(2, 16, 16, 256), (2, 8, 8, 512)]
    for mine, other in zip(maps.values(), states[-2:]):
        np.testing.assert_allclose(mine, other, atol=2e-3 * np.abs(other).max())
    normed = info.features(images, pool="grid", norm=True)
    expected = out.last_hidden_state.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(normed, expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(
        info.features(images), expected.mean((1, 2)), atol=2e-3 * np.abs(expected).max()
    )


BLOCK = ("block02/attention", "block02/output")
ENDS = ("encoded", "pre_logits")


@pytest.mark.parametrize(
    "options, names",
    [
        (dict(), ("embedding", *BLOCK, *ENDS)),
        (dict(registers=2, distillation="head"), ("embedding", *BLOCK, *ENDS)),
        (dict(head="map"), ("embedding", *BLOCK, *ENDS)),
        (dict(block="branched(count=2)"), ("block02/branch1/attention", "block02/output", *ENDS)),
        (dict(name="Axial-ViT-B/16"), ("block02/row/attention", "block02/column/attention",
                                       "block02/output", *ENDS)),
        (dict(name="R26+ViT-S/32", resnet_stages=(1, 1), patch_size=1, image_size=32),
         ("root", "stage1", "stage2", *BLOCK, *ENDS)),
        (dict(name="BiT-R26x1", resnet_stages=(1, 1), image_size=32),
         ("root", "stage1", "stage2", "pre_logits")),
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_model_names_its_intermediates(options, names):
    info = build(**options)
    height, width = info.config.image_size
    logits, out = info.model(noise(2, height, width), return_intermediates=True)
    assert set(names) <= set(out)
    np.testing.assert_allclose(info.model(noise(2, height, width)), logits, atol=1e-4, rtol=1e-4)
    for name in outputs.counted_layers(info.config):
        assert info.features(noise(2, height, width), layers=name, pool="mean").shape[0] == 2


def test_the_pyramid_of_a_hybrid_and_of_a_deep_vit():
    info = build("R26+ViT-S/32", resnet_stages=(1, 1), patch_size=1, image_size=32)
    maps = info.pyramid(noise(1, 32, 32))
    assert {name: value.shape[1:3] for name, value in maps.items()} == {
        "stage1": (8, 8), "stage2": (4, 4), "block02": (4, 4)
    }  # fmt: skip
    # BEiT's and DINOv2's segmentation take these blocks of a ViT-B.
    levels = outputs.default_levels(models.model_config("ViT-B/16"))
    assert levels == ["block02", "block05", "block08", "block11"]


def naflex_pair():
    """A NaFlex model, its Patches of a 3 x 2 and a 2 x 3 grid, and the plain model for the latter.

    A learned position embedding is resized per grid, so the models have none.
    """
    info = build(posemb="none", naflex=8, patch_size=4)
    plain = build(posemb="none")
    images = noise(2, 8, 12)
    patches = images.reshape(2, 2, 4, 3, 4, 3).swapaxes(2, 3).reshape(2, 6, 4, 4, 3)
    values = np.concatenate([patches, 100 * np.ones((2, 2, 4, 4, 3), np.float32)], axis=1)
    return info, Patches(jnp.asarray(values), jnp.array([[2, 3], [2, 3]])), plain, images


def test_naflex_gives_what_a_model_of_one_size_gives():
    info, patches, plain, images = naflex_pair()
    for pool in ("head", "cls", "mean"):
        np.testing.assert_allclose(
            info.features(patches, pool=pool), plain.features(images, pool=pool), atol=1e-4
        )
    tokens = info.features(patches, layers=0, pool="tokens")
    assert tokens.shape == (2, 1 + 8, 16)
    np.testing.assert_allclose(
        tokens[:, :7], plain.features(images, layers=0, pool="tokens"), atol=1e-4
    )
    one = Patches(patches.values[:1], patches.grid[:1])
    np.testing.assert_allclose(info.attention(one), plain.attention(images[:1]), atol=1e-5)
    with pytest.raises(InputError, match="grids of their own"):
        info.features(patches, pool="grid")


def test_attention_is_the_product_of_the_layers():
    """Abnar and Zuidema (2005.00928): heads averaged, half the identity, layers multiplied."""
    for options in (dict(), dict(head="gap", registers=1)):
        info = build(**options)
        images = noise(1, 8, 12)
        _, out = info.model(images, return_intermediates=True)
        flow = np.eye(info.config.num_tokens)
        for i in range(3):
            mean = np.asarray(out[f"block{i:02}/attention"], np.float64)[0].mean(0)
            flow = (mean + np.eye(len(mean))) / 2 @ flow
        prefix = info.config.prefix_tokens
        expected = flow[0, prefix:] if not options else flow[prefix:, prefix:].mean(0)
        np.testing.assert_allclose(info.attention(images), expected.reshape(2, 3), atol=1e-5)


def test_batches_do_not_change_features():
    info = build()
    images = noise(7, 8, 12)
    whole = info.features(images, layers=[0, -1], pool="tokens", batch_size=7)
    parts = info.features(images, layers=[0, -1], pool="tokens", batch_size=3)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_model_that_was_changed_gives_its_new_features():
    info = build()
    images = noise(1, 8, 12)
    before = info.features(images, pool="cls", norm=True)
    info.model.norm.bias[...] += 1.0
    after = info.features(images, pool="cls", norm=True)
    np.testing.assert_allclose(after - before, 1.0, atol=1e-5)


def test_the_norm_of_a_model_that_pools_first():
    info = build(head="gap", pool_then_norm=True)
    images = noise(2, 8, 12)
    np.testing.assert_allclose(
        info.features(images, pool="mean", norm=True), info.features(images), atol=1e-5
    )
    with pytest.raises(InputError, match="pool_then_norm"):
        info.features(images, pool="grid", norm=True)


def test_attention_weights_are_not_computed_for_features():
    """Otherwise their memory would limit the batch."""
    info = build(image_size=(64, 64), num_heads=8, width=64)
    graphdef, params = models.split(info.model)

    def compiled(function):
        return jax.jit(function).lower(params, noise(16, 64, 64)).compile().memory_analysis()

    def all_of_them(params, images):
        return models.merge(graphdef, params)(images, return_intermediates=True)[1]

    def pooled(params, images):
        return outputs.features(models.merge(graphdef, params), images, "all", pool="mean")

    weights = 3 * 16 * 8 * 257**2 * 4
    assert compiled(all_of_them).output_size_in_bytes > weights
    assert compiled(pooled).temp_size_in_bytes < weights


@pytest.mark.parametrize(
    "options, ask, message",
    [
        (dict(), dict(layers=3, pool="cls"), "the model has 3; give 0 to 2"),
        (dict(), dict(layers=[], pool="cls"), "names no layer"),
        (dict(), dict(layers="block3", pool="cls"), "did you mean 'block0"),
        (dict(), dict(pool="clss"), "did you mean 'cls'"),
        (dict(), dict(layers=0), "pool 'head' is the input of the classifier"),
        (dict(head="gap"), dict(pool="cls"), "no class token"),
        (dict(final_norm=False), dict(pool="cls", norm=True), "no last norm"),
        (dict(name="BiT-R26x1", resnet_stages=(1, 1), image_size=(8, 12)), dict(pool="cls"),
         "stage2 is a map"),
        (dict(name="BiT-R26x1", resnet_stages=(1, 1), image_size=(8, 12)),
         dict(layers="root", pool="grid", norm=True), "no norm after root"),
        (dict(), dict(batch_size=0), "batch size is 0"),
    ],
)  # fmt: skip
def test_what_a_model_does_not_have_is_refused(options, ask, message):
    with pytest.raises(InputError, match=message):
        build(**options).features(noise(1, 8, 12), **ask)


def test_attention_that_a_model_does_not_have_is_refused():
    with pytest.raises(InputError, match="a ResNet has no attention"):
        build("BiT-R26x1", resnet_stages=(1, 1), image_size=(8, 12)).attention(noise(1, 8, 12))
    with pytest.raises(InputError, match="'axial'"):
        build("Axial-ViT-B/16").attention(noise(1, 8, 12))
    with pytest.raises(InputError, match="one image, not 2"):
        build().attention(noise(2, 8, 12))


def test_the_record_keeps_its_model_and_its_repr_short():
    info = build()
    other = dataclasses.replace(info, multi_label=True)
    assert other.model is info.model and "model=" not in repr(info)

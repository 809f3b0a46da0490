import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vit_jax
from vit_jax.errors import InputError
from vit_jax.models import abstract, build_model, identify, model_config, split
from vit_jax.models.config import feature_grid

# Parameters without a head at 224 and 384 pixels, counted from the published architectures.
HYBRIDS = {
    "R+ViT-Ti/16": (6_144_704, 6_162_944),
    "R26+ViT-S/32": (36_046_912, 36_083_392),
    "R50+ViT-B/16": (97_890_112, 98_181_952),
    "R50+ViT-L/32": (327_969_856, 328_067_136),
}
BITS = {"BiT-R50x1": 23_508_032, "BiT-R152x2": 232_253_568}
SMALL = dict(resnet_stages=(1, 1), num_classes=7)
SMALL_VIT = dict(width=64, depth=2, mlp_dim=96, num_heads=2)


def count(name, **options):
    config = model_config(name, **options)
    params = abstract(lambda rngs: build_model(config, rngs))[1]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrid_counts_are_the_papers(name):
    at_224, at_384 = HYBRIDS[name]
    assert count(name, num_classes=0) == at_224
    assert count(name, num_classes=0, image_size=384) == at_384
    width = model_config(name).width
    assert count(name, num_classes=1000) == at_224 + 1000 * (width + 1)


def test_hybrid_with_the_same_stem_and_another_vit():
    assert count("R26+ViT-B/32", num_classes=1000) == 101_383_976


@pytest.mark.parametrize("name", BITS)
def test_bit_counts_are_the_papers(name):
    assert count(name, num_classes=0) == BITS[name]


def test_published_bit_is_preactivation():
    assert count("BiT-R50x1", num_classes=0, preact=True) == 23_500_352


@pytest.mark.parametrize(
    "stages,image_size,grid",
    [
        ((3, 4, 9), (224, 384), (14, 24)),
        ((3, 4, 6, 3), (384, 224), (12, 7)),
        ((), (224, 224), (56, 56)),
        ((1, 1), (65, 97), (9, 13)),
    ],
)
@pytest.mark.parametrize("preact", [False, True])
def test_feature_grid_is_what_the_convolutions_give(stages, image_size, grid, preact):
    assert feature_grid(image_size, stages) == grid
    if stages:
        config = model_config("BiT-R50x1", resnet_stages=stages, preact=preact)
        graphdef, params = abstract(lambda rngs: build_model(config, rngs))
        _, outputs = jax.eval_shape(
            lambda params, images: nnx.merge(graphdef, params)(images, return_intermediates=True),
            params,
            jnp.zeros((1, *image_size, 3)),
        )
        assert outputs[f"stage{len(stages)}"].shape[1:3] == grid


def reference(params, images, stages, preact):
    """The ResNet in PyTorch, written from the papers: v1 and v2 bottlenecks."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def conv(x, p, stride=1):
        w = torch.from_numpy(np.asarray(p["kernel"])).permute(3, 2, 0, 1)
        w = w - w.mean((1, 2, 3), keepdim=True)
        std = w.std((1, 2, 3), keepdim=True, correction=0)
        w = w / torch.sqrt(std**2 + 1e-10) if preact else w / (std + 1e-5)
        size = w.shape[-1]
        if preact:
            return functional.conv2d(x, w, stride=stride, padding=size // 2)
        return functional.conv2d(same(x, size, stride), w, stride=stride)

    def same(x, size, stride):
        pads = []
        for n in (x.shape[3], x.shape[2]):
            total = max((math.ceil(n / stride) - 1) * stride + size - n, 0)
            pads += [total // 2, total - total // 2]
        return functional.pad(x, pads)

    def norm(x, p):
        scale, bias = (torch.from_numpy(np.asarray(p[key])) for key in ("scale", "bias"))
        return functional.group_norm(x, 32, scale, bias, 1e-5 if preact else 1e-6)

    relu = functional.relu
    x = conv(torch.from_numpy(images).permute(0, 3, 1, 2), params["conv_root"], 2)
    if preact:
        x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2)
    else:
        x = functional.max_pool2d(same(relu(norm(x, params["gn_root"])), 3, 2), 3, 2)
    for i, units in enumerate(stages):
        for j in range(units):
            p, stride = params[f"block{i + 1}"][f"unit{j + 1}"], 2 if i and not j else 1
            if preact:
                y = relu(norm(x, p["gn1"]))
                shortcut = conv(y, p["conv_proj"], stride) if "conv_proj" in p else x
                y = relu(norm(conv(y, p["conv1"]), p["gn2"]))
                y = relu(norm(conv(y, p["conv2"], stride), p["gn3"]))
                x = conv(y, p["conv3"]) + shortcut
            else:
                shortcut = x
                if "conv_proj" in p:
                    shortcut = norm(conv(x, p["conv_proj"], stride), p["gn_proj"])
                y = relu(norm(conv(x, p["conv1"]), p["gn1"]))
                y = relu(norm(conv(y, p["conv2"], stride), p["gn2"]))
                x = relu(norm(conv(y, p["conv3"]), p["gn3"]) + shortcut)
    x = relu(norm(x, params["norm"])) if preact else x
    return x.mean((2, 3)).numpy()


def random_model(name, **options):
    """A model as (graphdef, params), every parameter away from its initial value."""
    config = model_config(name, **options)
    graphdef, params = abstract(lambda rngs: build_model(config, rngs))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        return 1 + 0.2 * noise if path[-1].key == "scale" else 0.1 * noise

    return graphdef, jax.tree_util.tree_map_with_path(draw, params)


@functools.partial(jax.jit, static_argnames=("graphdef", "intermediates"))
def run(graphdef, params, images, intermediates=False):
    return nnx.merge(graphdef, params)(images, return_intermediates=intermediates)


@pytest.mark.parametrize("preact", [False, True])
def test_features_equal_a_torch_resnet(preact):
    stages = (1, 2)
    graphdef, params = random_model("BiT-R50x1", resnet_stages=stages, num_classes=0, preact=preact)
    images = np.random.default_rng(1).normal(size=(2, 45, 64, 3)).astype(np.float32)
    expected = reference(params["resnet"], images, stages, preact)
    features = run(graphdef, params, images)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_hybrid_stem_feeds_the_patches():
    """A hybrid equals a ViT whose patch embedding reads the stem's last map."""
    options = dict(SMALL, **SMALL_VIT, patch_size=2, image_size=(64, 32), head="gap")
    graphdef, params = random_model("R50+ViT-S/16", **options)
    images = np.random.default_rng(1).normal(size=(2, 64, 32, 3)).astype(np.float32)
    logits, outputs = run(graphdef, params, images, intermediates=True)
    assert logits.shape == (2, 7)
    assert outputs["stage2"].shape == (2, 8, 4, 512)
    patch = np.asarray(outputs["stage2"][:, 2:4, 0:2])  # second row, first column
    token = np.einsum("bhwc,hwcd->bd", patch, params["embedding"]["kernel"])
    expected = token + params["embedding"]["bias"] + params["posemb"]["embedding"][0, 2]
    np.testing.assert_allclose(outputs["embedding"][:, 2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name,options",
    [
        ("BiT-R50x1", SMALL),
        ("BiT-R50x1", dict(SMALL, preact=True)),
        ("R50+ViT-S/16", dict(SMALL, **SMALL_VIT, patch_size=2, image_size=32)),
    ],
)
def test_every_parameter_trains(name, options):
    graphdef, params = random_model(name, **options)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    grads = jax.jit(jax.grad(lambda p: jnp.square(nnx.merge(graphdef, p)(images)).sum()))(params)
    dead = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not np.isfinite(grad).all() or not np.abs(grad).max() > 0
    ]
    assert dead == []


def test_remat_changes_no_gradient_and_saves_memory():
    _, params = random_model("BiT-R50x1", resnet_stages=(1,), num_classes=0)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)

    def loss_of(remat):
        graphdef, _ = random_model("BiT-R50x1", resnet_stages=(1,), num_classes=0, remat=remat)
        return lambda params: jnp.square(nnx.merge(graphdef, params)(images)).sum()

    def residual_bytes(loss):
        residuals = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    plain, remat = loss_of("none"), loss_of("full")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        jax.jit(jax.grad(plain))(params),
        jax.jit(jax.grad(remat))(params),
    )
    assert residual_bytes(remat) < residual_bytes(plain) / 2


def test_a_fresh_unit_is_its_shortcut():
    """The last scale of a post-activation unit starts at zero."""
    config = model_config("BiT-R50x1", resnet_stages=(1,), num_classes=0)
    params = jax.jit(lambda: split(build_model(config, nnx.Rngs(0)))[1])()
    unit = params["resnet"]["block1"]["unit1"]
    assert not np.any(unit["gn3"]["scale"])
    assert np.all(unit["gn2"]["scale"] == 1)


def test_bfloat16_is_near_float32():
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    features = []
    for dtype in ("float32", "bfloat16"):
        model = random_model("BiT-R50x1", resnet_stages=(1,), num_classes=0, dtype=dtype)
        features.append(run(*model, images))
    assert features[1].dtype == jnp.float32
    np.testing.assert_allclose(*features, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "given,canonical",
    [
        ("r50+vit-b/16", "R50+ViT-B/16"),
        ("R50+B/16", "R50+ViT-B/16"),
        ("R_Ti_16", "R+ViT-Ti/16"),
        ("r26_s_32", "R26+ViT-S/32"),
        ("R50x2+ViT-G/32", "R50x2+ViT-G/32"),
        ("bit-r50x1", "BiT-R50x1"),
        ("BiT_R152x4", "BiT-R152x4"),
    ],
)
def test_names_people_write(given, canonical):
    assert model_config(given) == model_config(canonical)


@pytest.mark.parametrize("name", vit_jax.list_models())
def test_listed_names_identify_themselves(name):
    assert identify(model_config(name)) == (name, {})


@pytest.mark.parametrize(
    "name,options",
    [
        ("ViT-B/16", dict(width=100, depth=3, mlp_dim=7, num_heads=5, patch_size=(4, 6))),
        ("R101+ViT-S/16", dict(resnet_stages=(1, 2, 3, 4, 5), patch_size=2, image_size=512)),
        ("BiT-R101x3", dict(resnet_stages=(1, 1), preact=True, resnet_norm_eps=1e-5)),
        ("ViT-S/14", dict(registers=4, layer_scale=1.0, head="token_gap", mlp="swiglu")),
    ],
)
def test_any_configuration_is_named(name, options):
    config = model_config(name, **options)
    name, options = identify(config)
    assert model_config(name, **options) == config


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("R51+ViT-B/16", {}, "did you mean 'R50\\+ViT-B/16'"),
        ("R50+ViT-B/14", {}, "multiple of 16"),
        ("BiT-R50x1", dict(dropout=0.1), "dropout does not apply to BiT-R50x1"),
        ("ViT-B/16", dict(preact=True), "preact does not apply to ViT-B/16"),
        ("BiT-R50x1", dict(resnet_stages=()), "at least one stage"),
        ("BiT-R50x1", dict(resnet_stages=(3, 0)), "units are 1 or more"),
        ("ViT-B/16", dict(distillation="head", head="gap"), "class_token"),
        ("ViT-B/16", dict(pool_then_norm=True), "needs model.head 'gap'"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        model_config(name, **options)

"""The parts of a ViT that other families have: each against its formula, and under a mesh."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import vit_jax
from vit_jax import config as configs
from vit_jax.errors import InputError
from vit_jax.models import merge, split
from vit_jax.models.layers import RmsNorm
from vit_jax.models.mlp import Mlp, gelu
from vit_jax.models.positions.bias import TablePositionBias
from vit_jax.models.positions.embedding import sincos_2d
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.mesh import create_mesh
from vit_jax.parallel.rules import state_shardings

GRID = (2, 3)
PREFIX = 2  # class token and one register
HEAD = 8


def config(**options) -> ViTConfig:
    shape = dict(width=2 * HEAD, depth=2, mlp_dim=24, num_heads=2, patch_size=4)
    shape |= dict(image_size=(8, 12), registers=1, num_classes=3)
    return vit_jax.models.model_config("ViT-Ti/16", **shape | options)


def randomised(model, seed=0):
    """The model with every parameter random, so that none hides behind a zero or a one."""
    graphdef, params = split(model)
    leaves, tree = jax.tree.flatten(params)
    draw = np.random.default_rng(seed).normal
    leaves = [jnp.asarray(draw(0, 0.3, leaf.shape) + leaf, jnp.float32) for leaf in leaves]
    return merge(graphdef, jax.tree.unflatten(tree, leaves))


def build(**options):
    return randomised(vit_jax.models.build_model(config(**options), nnx.Rngs(0)))


def images(count=2):
    return np.random.default_rng(1).normal(size=(count, 8, 12, 3)).astype(np.float32)


def turned(x, angles, layout):
    """Each pair of numbers as a complex number, times exp(i angle)."""
    half = x.shape[-1] // 2
    first, second = (
        (x[..., :half], x[..., half:]) if layout == "half" else (x[..., ::2], x[..., 1::2])
    )
    z = (first + 1j * second) * np.exp(1j * angles)
    if layout == "half":
        return np.concatenate([z.real, z.imag], -1)
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def angles_of(kind, y, x):
    """The d / 2 angles of the patch in row y and column x, by the papers' formulas."""
    rows, columns = GRID
    frequency = {
        name: [base ** (-4 * k / HEAD) for k in range(HEAD // 4)]
        for name, base in (("centred", 100.0), ("eva", 1e4), ("pe", 1e4))
    }[kind]
    if kind == "centred":  # DINOv3: periods base ** (4 k / d), coordinates -1 to 1
        coordinates = ((y + 0.5) / rows * 2 - 1, (x + 0.5) / columns * 2 - 1)
        frequency = [2 * math.pi * f for f in frequency]
    elif kind == "eva":  # index, scaled onto a grid of 16 x 16
        coordinates = (y * 16 / rows, x * 16 / columns)
    else:  # PE: columns first, index + 1, scaled onto 14 x 14
        coordinates = ((x + 1) * 14 / columns, (y + 1) * 14 / rows)
    return [c * f for c in coordinates for f in frequency]


@pytest.mark.parametrize(
    "kind, spec, layout",
    [
        ("centred", "centred", "half"),
        ("eva", "indexed(reference=16)", "interleaved"),
        ("pe", 'indexed(reference=14, offset=1.0, order="xy")', "interleaved"),
    ],
)
def test_rotary_embeddings_turn_pairs_by_the_published_angles(kind, spec, layout):
    rotation = config(rotary=spec).rotary_kind.create(config(rotary=spec), nnx.Rngs(0))()
    x = np.random.default_rng(2).normal(size=(1, PREFIX + 6, 2, HEAD)).astype(np.float32)
    result = np.asarray(rotation(jnp.asarray(x)))
    np.testing.assert_array_equal(result[:, :PREFIX], x[:, :PREFIX])
    for n, (row, column) in enumerate(itertools.product(range(2), range(3))):
        angles = np.array(angles_of(kind, row, column))
        expected = turned(x[:, PREFIX + n], angles, layout)
        np.testing.assert_allclose(result[:, PREFIX + n], expected, atol=2e-5)


def test_mixed_rotary_frequencies_are_learnt_for_each_layer_and_head():
    model = build(rotary="mixed")
    frequencies = np.asarray(model.blocks.rotary.frequencies[...])
    assert frequencies.shape == (2, 2, 2, HEAD // 2)  # layer, coordinate, head, pair
    rotary = config(rotary="mixed").rotary_kind.create(config(rotary="mixed"), nnx.Rngs(0))
    x = np.random.default_rng(2).normal(size=(1, PREFIX + 6, 2, HEAD)).astype(np.float32)
    own = np.asarray(rotary.frequencies[...])
    result = np.asarray(rotary()(jnp.asarray(x)))
    for n, (row, column) in enumerate(itertools.product(range(2), range(3))):
        angles = column * own[0] + row * own[1]  # xy
        expected = turned(x[:, PREFIX + n], angles, "interleaved")
        np.testing.assert_allclose(result[:, PREFIX + n], expected, atol=2e-5)


def test_rescaled_coordinates_scale_all_angles_of_an_example_alike():
    options = dict(rotary="centred(rescale=2.0)")
    rotary = config(**options).rotary_kind.create(config(**options), nnx.Rngs(0))
    plain, drawn = rotary(), rotary(jax.random.split(jax.random.key(0), 64))
    angle = np.arctan2(plain.sin, plain.cos)[PREFIX:, 0, 1]  # a low frequency: never beyond pi
    scaled = np.arctan2(drawn.sin, drawn.cos)[:, PREFIX:, 0, 1]
    factors = scaled / angle
    np.testing.assert_allclose(factors, factors[:, :1].repeat(6, 1), rtol=1e-4)
    logs = np.log2(factors[:, 0])
    assert -1 <= logs.min() < -0.7 and 0.7 < logs.max() <= 1 and abs(logs.mean()) < 0.25


def test_a_position_bias_is_the_table_at_the_offset():
    bias = TablePositionBias((2, 3), 2, True, rngs=nnx.Rngs(0))
    table, found = np.asarray(bias.table[...]), np.asarray(bias())[0]
    assert table.shape == (3 * 5 + 3, 2)
    places = list(itertools.product(range(2), range(3)))
    for (q, (qy, qx)), (k, (ky, kx)) in itertools.product(enumerate(places), repeat=2):
        row = (qy - ky + 1) * 5 + (qx - kx + 2)
        np.testing.assert_array_equal(found[:, 1 + q, 1 + k], table[row])
    for q, k, row in ((0, 3, 15), (3, 0, 16), (0, 0, 17)):
        np.testing.assert_array_equal(found[:, q, k], table[row])


def test_a_bias_is_added_to_the_logits_before_the_softmax():
    kinds = dict(registers=0, position_bias="table(shared=True)", depth=1)
    model, plain = build(**kinds), build(registers=0, depth=1)
    graphdef, params = split(model)
    params["position_bias"]["table"] = jnp.zeros_like(params["position_bias"]["table"])
    without = merge(graphdef, params)
    get = lambda m: np.asarray(  # noqa: E731
        m(images(), return_intermediates=True)[1]["block00/attention"], np.float64
    )
    bias = np.asarray(model.position_bias())[0]
    logits = np.log(get(without)) + bias
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(get(model), expected, atol=1e-5)
    assert "position_bias" not in split(plain)[1]


def test_rms_norm_is_the_formula():
    norm = randomised(RmsNorm(6, eps=1e-3))
    x = np.random.default_rng(0).normal(2, 1, size=(4, 6))
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * np.asarray(norm.scale[...])
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)


def test_quick_gelu_and_the_norm_of_the_hidden_vector():
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    np.testing.assert_allclose(gelu(x, "quick"), x / (1 + np.exp(-1.702 * x)), rtol=1e-5)
    mlp = randomised(Mlp(4, 6, rngs=nnx.Rngs(0), kind="swiglu", bias=False, inner_norm="layer"))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    gate, value = np.einsum("nd,dgm->gnm", x, np.asarray(mlp.gated.kernel[...]))
    hidden = gate / (1 + np.exp(-gate)) * value
    centred = hidden - hidden.mean(-1, keepdims=True)
    hidden = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    hidden = hidden * np.asarray(mlp.norm.scale[...]) + np.asarray(mlp.norm.bias[...])
    np.testing.assert_allclose(mlp(x), hidden @ np.asarray(mlp.fc2.kernel[...]), atol=1e-5)


@pytest.mark.parametrize("order, first", [("xy", 1), ("yx", 0)])
def test_sincos_without_the_endpoint_is_that_of_mae(order, first):
    """MAE's get_2d_sincos_pos_embed: frequencies 10000 ** (-k / (D / 4))."""
    table = sincos_2d((3, 4), 16, order, endpoint=False).reshape(3, 4, 4, 4)
    for place, k in itertools.product(itertools.product(range(3), range(4)), range(4)):
        w = 10_000 ** (-k / 4)
        a, b = place[first], place[1 - first]
        expected = [math.sin(a * w), math.cos(a * w), math.sin(b * w), math.cos(b * w)]
        np.testing.assert_allclose(table[(*place, slice(None), k)], expected, atol=1e-6)


def test_a_parallel_block_adds_attention_and_mlp_of_the_same_tokens():
    model = build(block="parallel", depth=1, layer_scale=0.5)
    graphdef, params = split(model.blocks)
    block = merge(graphdef, jax.tree.map(lambda leaf: leaf[0], params))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.float32)
    y, _ = block(x, drop_rate=jnp.zeros(()))
    normed = block.norm1(x)
    branch = block.attention(normed)[0] + block.mlp(normed)
    np.testing.assert_allclose(y, x + block.scale1[...] * branch, atol=1e-5)


def test_a_branched_block_adds_the_sums_of_its_branches():
    model = build(block="branched(count=2)", depth=1)
    graphdef, params = split(model.blocks)
    block = merge(graphdef, jax.tree.map(lambda leaf: leaf[0], params))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.float32)
    y, _ = block(x, drop_rate=jnp.zeros(()))
    a, b = block.branch0, block.branch1
    x = x + a.attention(a.norm1(x))[0] + b.attention(b.norm1(x))[0]
    np.testing.assert_allclose(y, x + a.mlp(a.norm2(x)) + b.mlp(b.norm2(x)), atol=1e-5)


def test_a_post_norm_block_norms_what_it_adds():
    model = build(block="post_norm", depth=1)
    graphdef, params = split(model.blocks)
    block = merge(graphdef, jax.tree.map(lambda leaf: leaf[0], params))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.float32)
    y, _ = block(x, drop_rate=jnp.zeros(()))
    x = x + block.norm1(block.attention(x)[0])
    np.testing.assert_allclose(y, x + block.norm2(block.mlp(x)), atol=1e-5)


SWITCHES = [
    dict(rotary="centred(rescale=2.0)", posemb="none", mlp="swiglu", qkv_bias="no_key"),
    dict(rotary="mixed", norm="rms", patch_norm=True, norm_pre=True, patch_bias=False),
    dict(position_bias="table", registers=0, head="gap", pool_then_norm=True, class_token=True),
    dict(position_bias="mlp(shared=True)", block="post_norm", qkv_bias="none", out_bias=False),
    dict(attention_norm=True, mlp_norm=True, gelu="quick", projection=8, mlp_bias=False),
    dict(block="parallel", qk_norm=True, final_norm=False, head="gap"),
    dict(block="branched(count=2)", head="map", class_token=True, pool_prefix=True, map_heads=4),
    dict(attention_kind="halo(2, 1, relative=True)", rotary="centred"),
    dict(attention_kind="window(3)", qkv_bias="no_key", block="post_norm"),
    dict(attention_kind="block(2, relative=True)", head="gap", registers=0),
    dict(attention_kind="sparse(factors='by_head')"),
    dict(attention_kind="sparse(pattern='fixed', causal=True)", head="gap", registers=0),
    dict(attention_kind="sparse(factors='by_layer')", qk_norm=True),
    dict(attention_kind="quadratic", head="gap", registers=0, block="sum_norm"),
    dict(attention_kind="offsets(positions=4, content=True)", head="gap", registers=0),
]


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_every_switch_is_the_same_under_a_mesh_and_trains(options):
    """Logits and gradients of every parameter on one device and on fsdp=2, tensor=2, data=2."""
    model = build(**options)
    graphdef, params = split(model)
    batch = jnp.asarray(images(8))

    def loss(params, batch):
        return jnp.square(merge(graphdef, params)(batch) - 1.0).mean()

    expected, expected_grads = jax.jit(jax.value_and_grad(loss))(params, batch)
    section = configs.default().parallel
    section.update(data=2, fsdp=2, tensor=2)
    mesh = create_mesh(section)
    sharded = jax.device_put(params, state_shardings(params, params, mesh))
    placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    with jax.set_mesh(mesh):
        result, grads = jax.jit(jax.value_and_grad(loss))(sharded, placed)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    for (path, grad), other in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected_grads)
    ):
        np.testing.assert_allclose(grad, other, atol=1e-5, rtol=2e-4, err_msg=str(path))
        assert np.abs(other).max() > 0 or "key" in str(path), f"{path} has no gradient"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(rotary="spiral"), "unknown model.rotary 'spiral'"),
        (dict(rotary="centred", num_heads=8), "heads of a width divisible by 4, not 2"),
        (dict(rotary='indexed(order="ab")'), "order is 'ab'; it must be yx or xy"),
        (dict(position_bias="table"), "set model.registers to 0"),
        (dict(norm="batch"), "model.norm"),
        (dict(block="branched(count=0)"), "count is 0; give 1 to 16"),
        (dict(pool_prefix=True), "needs model.head 'gap' or 'map'"),
        (dict(map_heads=2), "need model.head 'map'"),
        (dict(head="map", map_heads=3), "not divisible by model.map_heads 3"),
        (dict(projection=8, pre_logits=4), "model.projection needs model.pre_logits 0"),
        (dict(final_norm=False, head="gap", pool_then_norm=True), "needs model.final_norm"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(InputError) as error:
        config(**options)
    assert message in str(error.value)

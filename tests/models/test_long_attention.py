"""Fused attention equals the plain products, in results and gradients, without arrays of N x N.

The reference is `jax.nn.dot_product_attention`, which JAX differentiates by itself.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import config as configs
from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models.attention.fused import choice, splash
from vit_jax.models.attention.fused.blockwise import blockwise_attention
from vit_jax.models.attention.self_attention import SelfAttention, attend
from vit_jax.models.option_checks import check
from vit_jax.parallel.mesh import create_mesh
from vit_jax.plan import compile as compiling
from vit_jax.train.run import Dataset, prepare

HEADS, WIDTH = 3, 8


def arrays(queries, keys=None, dtype=jnp.float32, batch=2, width=WIDTH):
    """Queries, keys, values and the gradient of the result: (B, N, H, d)."""
    random = jax.random.split(jax.random.key(0), 4)
    lengths = (queries, keys or queries, keys or queries, queries)
    return [
        jax.random.normal(key, (batch, length, HEADS, width), dtype)
        for key, length in zip(random, lengths)
    ]


def with_gradients(function, query, key, value, grad):
    @jax.jit
    def both(query, key, value, grad):
        y, backward = jax.vjp(function, query, key, value)
        return y, *backward(grad)

    return both(query, key, value, grad)


def assert_close(found, expected, tolerance=1e-5):
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def reference(causal=False, mask=None, bias=None):
    def attention(query, key, value):
        return jax.nn.dot_product_attention(
            query, key, value, bias=bias, mask=mask, is_causal=causal, implementation="xla"
        )

    return attention


def blockwise(query, key, value, bias=None, **options):
    heads_first = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    return blockwise_attention(*heads_first, bias, **options).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries, block", [(48, 16), (50, 16), (50, 512)])
def test_blockwise_is_the_plain_attention(queries, block, causal):
    inputs = arrays(queries)
    found = with_gradients(lambda *x: blockwise(*x, causal=causal, block=block), *inputs)
    assert_close(found, with_gradients(reference(causal), *inputs))


def test_blockwise_in_bfloat16():
    inputs = arrays(50, dtype=jnp.bfloat16)
    found = with_gradients(lambda *x: blockwise(*x, block=16), *inputs)
    exact = with_gradients(reference(), *(x.astype(jnp.float32) for x in inputs))
    assert_close(found, exact, 2e-2)
    assert {x.dtype for x in found} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("shape", [(1, HEADS, 20, 35), (2, 1, 1, 35), (1, HEADS, 1, 35)])
def test_blockwise_adds_biases_that_have_gradients(shape):
    query, key, value, grad = arrays(20, 35)
    bias = jax.random.normal(jax.random.key(1), shape)

    def loss(attention):
        return jax.jit(jax.grad(lambda bias: (attention(bias) * grad).sum()))(bias)

    found = loss(lambda bias: blockwise(query, key, value, bias, block=16))
    whole = jnp.broadcast_to
    expected = loss(lambda bias: reference(bias=whole(bias, (2, HEADS, 20, 35)))(query, key, value))
    assert_close([found], [expected])


@pytest.mark.parametrize("causal", [False, True])
def test_blockwise_has_forward_and_second_derivatives(causal):
    """Along the gradient itself: JAX's own derivatives of the plain products are the reference."""
    *inputs, grad = arrays(20)
    bias = jax.random.normal(jax.random.key(1), (1, HEADS, 20, 20))
    directions = jax.tree.map(jnp.cos, (*inputs, bias))

    def derivatives(attention):
        def loss(query, key, value, bias):
            return (attention(query, key, value, bias) * grad).sum()

        @jax.jit
        def all_of(*primals):
            forward = jax.jvp(attention, primals, directions)[1]
            gradient = jax.grad(loss, argnums=(0, 1, 2, 3))
            curvature = jax.jvp(gradient, primals, directions)[1]  # forward over reverse
            slope = jax.grad(lambda *x: jax.jvp(loss, x, directions)[1], argnums=(0, 3))
            return forward, *curvature, *slope(*primals)  # reverse over forward

        return all_of(*inputs, bias)

    found = derivatives(lambda *x: blockwise(*x, causal=causal, block=8))
    expected = derivatives(lambda *x: reference(causal, bias=x[3])(*x[:3]))
    assert_close(found, expected)


def test_blockwise_hides_padding_and_knows_where_queries_stand():
    inputs = arrays(8, 32)
    places = np.arange(32)[None] <= 16 + np.arange(8)[:, None]
    seen = (places & (np.arange(32) < 21))[None, None]
    options = dict(causal=True, start=jnp.int32(16), length=21, block=8)
    found = with_gradients(lambda *x: blockwise(*x, **options), *inputs)
    assert_close(found, with_gradients(reference(mask=seen), *inputs))


@pytest.mark.parametrize("seen", [None, splash.causal])
def test_splash_is_the_plain_attention(seen):
    """The kernel's interpreter; 150 tokens do not divide into blocks of 128."""
    inputs = arrays(150, batch=1)
    found = with_gradients(
        lambda *x: splash.splash_attention(*x, seen=seen, interpret=True), *inputs
    )
    assert_close(found, with_gradients(reference(seen is not None), *inputs))


def test_splash_hides_padding():
    inputs = arrays(64, 128, batch=1)
    found = with_gradients(
        lambda *x: splash.splash_attention(*x, length=101, interpret=True), *inputs
    )
    seen = (np.arange(128) < 101)[None, None, None]
    assert_close(found, with_gradients(reference(mask=seen), *inputs))


@pytest.mark.parametrize("length, size", [(197, 256), (1025, 384), (4097, 896), (4096, 1024)])
def test_blocks_of_the_kernel_waste_little(length, size):
    assert splash.block_size(length) == size


def chosen(implementation="auto", **changes):
    usual = dict(
        queries=4097, keys=4097, dtype=jnp.dtype("bfloat16"), head_width=64, biased=False,
        platform="cpu",
    )  # fmt: skip
    return choice.choose(implementation, **(usual | changes))


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(), "blockwise"),
        (dict(queries=197, keys=197), "xla"),
        (dict(queries=1), "xla"),
        (dict(queries=197, keys=197, platform="tpu"), "xla"),
        (dict(platform="tpu"), "splash"),
        (dict(platform="tpu", biased=True), "blockwise"),
        (dict(platform="gpu"), "cudnn"),
        (dict(platform="gpu", dtype=jnp.dtype("float32")), "blockwise"),
        (dict(platform="gpu", head_width=80), "cudnn"),
        (dict(platform="gpu", head_width=132), "blockwise"),
        (dict(platform="gpu", biased=True), "blockwise"),
        (dict(platform="gpu", kind="AMD Instinct MI300X"), "blockwise"),
        (dict(implementation="xla"), "xla"),
    ],
)
def test_what_auto_takes(changes, expected):
    assert chosen(**changes) == expected


@pytest.mark.parametrize("taken", ["cudnn", "splash"])
def test_what_the_device_lacks_is_refused_in_one_line(taken):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", attention=taken, dtype="bfloat16")
    config.total.steps = 1
    config.batch_size = 8
    dataset = Dataset(64, 10, (16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match=f"model.attention '{taken}' needs a") as error:
        prepare(config, dataset)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="there is only cpu"):
        attend(*arrays(4)[:3], implementation=taken)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            dict(attention="blockwise", attention_dropout=0.1),
            "has no weights for attention_dropout",
        ),
        (dict(attention="splash", posemb="relative"), "'relative' needs model.attention 'xla' or"),
        (dict(attention="splash", position_bias="mlp"), "position_bias needs model.attention"),
        (dict(attention="splash", attention_kind="window(3)"), "model.attention 'xla', not 'spl"),
    ],
)
def test_implementations_that_lack_a_part_of_the_model(options, message):
    with pytest.raises(InputError, match=message):
        check(models.model_config("ViT-Ti/4", image_size=16, **options))


def test_a_model_gives_the_same_with_blocks():
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    options = dict(image_size=16, width=32, depth=1, num_heads=2, mlp_dim=64, head="map")
    plain, blocks = (
        models.create_model("ViT-Ti/4", attention=name, num_classes=0, registers=2, **options)
        for name in ("xla", "blockwise")
    )
    found, expected = (jax.jit(lambda x, m=model: m(x))(images) for model in (blocks, plain))
    assert_close([found], [expected])
    assert np.abs(expected).max() > 0.1


def layer(tokens, implementation, *, width=1024, heads=16, dtype="bfloat16"):
    """An L/16 attention layer: its step (parameters, x) -> gradients, and the parameters."""

    def create():
        return SelfAttention(
            width, heads, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), implementation=implementation,
            tokens=tokens,
        )  # fmt: skip

    graphdef, params = nnx.split(nnx.eval_shape(create), nnx.Param)

    def loss(params, x):
        y, _ = nnx.merge(graphdef, params)(x)
        return (y.astype(jnp.float32) ** 2).sum()

    return jax.grad(loss, argnums=(0, 1)), params


def test_memory_of_4097_tokens_grows_with_tokens_not_with_their_square():
    sizes = {}
    for name in ("xla", "auto"):
        step, params = layer(4097, name, width=32, heads=2, dtype="float32")
        x = jax.ShapeDtypeStruct((1, 4097, 32), jnp.float32)
        memory = jax.jit(step).lower(params, x).compile().memory_analysis()
        sizes[name] = memory.temp_size_in_bytes
    logits = 2 * 4097**2 * 4  # of both heads
    assert sizes["xla"] > logits
    assert sizes["auto"] < logits / 3


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("tokens", [1025, 4097])
def test_tpus_take_the_kernel(topology, tokens):
    """Compiled ahead of time; a plain L/16 layer has 16 N^2 weights in bfloat16 for each image."""
    pytest.importorskip("libtpu")
    mesh = create_mesh(configs.default().parallel, compiling.topology_devices(topology))
    step, params = layer(tokens, "auto")
    whole, cut = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), params
    )
    x = jax.ShapeDtypeStruct((4, tokens, 1024), jnp.bfloat16, sharding=cut)
    with jax.set_mesh(mesh):
        compiled = jax.jit(step).lower(params, x).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 3  # forward, two backward kernels
    weights = 16 * tokens**2 * 2
    assert compiled.memory_analysis().temp_size_in_bytes < weights * (3 if tokens < 2000 else 0.5)


def test_pallas_is_imported_by_those_who_need_it():
    source = importlib.util.find_spec("vit_jax.models.attention.fused.choice").origin
    with open(source) as file:
        top = [line for line in file if line.startswith(("import", "from"))]
    assert not any("splash" in line or "pallas" in line for line in top)

"""Sparse Transformer's patterns against dense attention under masks from the paper's formulas."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import config as configs
from vit_jax.errors import InputError
from vit_jax.models import merge, model_config, split
from vit_jax.models.attention.fused import choice, splash
from vit_jax.models.attention.patterns import Sees
from vit_jax.models.attention.self_attention import SelfAttention
from vit_jax.models.attention.sparse import SparseAttention
from vit_jax.models.flops import attention_macs, encoder_macs, parameters
from vit_jax.parallel.mesh import create_mesh
from vit_jax.plan.compile import topology_devices

HEADS, WIDTH = 4, 12
SHAPE = dict(width=WIDTH, depth=3, mlp_dim=12, num_heads=HEADS, patch_size=2, num_classes=3)
GRID = (4, 6)


def config_of(prefix=0, grid=GRID, **arguments):
    head = dict(head="token", registers=prefix - 1) if prefix else dict(head="gap")
    text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    size = (2 * grid[0], 2 * grid[1])
    return model_config(
        "ViT-Ti/16", **SHAPE | head, image_size=size, attention_kind=f"sparse({text})"
    )


def published_sets(pattern, length, stride, summary, causal):
    """A1 and A2 of each place, section 4.3, with and without keys after the query."""
    sets = []
    for i in range(length):
        places = range(i + 1) if causal else range(length)
        if pattern == "strided":
            first = {j for j in places if abs(i - j) <= stride}
            second = {j for j in places if (i - j) % stride == 0}
        else:
            first = {j for j in places if j // stride == i // stride}
            second = {j for j in places if j % stride >= stride - summary} or {i}
        sets.append((first, second))
    return sets


def masks(config):
    """Which token sees which in each layer and head: bool (L, H, N, N)."""
    kind, prefix = config.kind, config.prefix_tokens
    stride, length = kind.stride or config.grid[1], config.num_patches
    sets = published_sets(kind.pattern, length, stride, kind.summary, kind.causal)
    whole = np.zeros((config.depth, HEADS, length + prefix, length + prefix), bool)
    whole[:, :, :prefix] = whole[..., :prefix] = True
    for layer in range(config.depth):
        for head in range(HEADS):
            for i, (first, second) in enumerate(sets):
                which = dict(merged=2, by_layer=layer % 2, by_head=head % 2)[kind.factors]
                seen = (first, second, first | second)[which]
                whole[layer, head, prefix + i, [prefix + j for j in seen]] = True
    return whole


CASES = [
    dict(pattern=pattern, factors=factors, **options)
    for pattern in ("strided", "fixed")
    for factors in ("merged", "by_layer", "by_head")
    for options in (dict(causal=True, stride=4), dict(causal=False, prefix=2))
]
CASES[3]["stride"] = 3  # not the columns of the grid
for case in CASES[6:]:
    case["summary"] = 2


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_outputs_weights_and_gradients_are_those_of_dense_attention(arguments, same_attention):
    config = config_of(**arguments)
    kind = config.kind
    layer_options = dict(pattern=kind.laid_out(config), factors=kind.factors)
    graphdef, params = split(SparseAttention(WIDTH, HEADS, rngs=nnx.Rngs(0), **layer_options))
    full, _ = split(SelfAttention(WIDTH, HEADS, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, config.num_tokens, WIDTH)).astype(np.float32)
    grad = rng.normal(size=x.shape).astype(np.float32)
    for layer, mask in list(enumerate(masks(config)))[: 2 if kind.by_layer else 1]:

        def sparse(params, x, layer=layer):
            number = jnp.asarray(layer)
            return merge(graphdef, params)(x, return_weights=True, layer=number)

        def dense(params, x, mask=mask):
            hidden = jnp.where(mask, 0.0, -jnp.inf)[None]
            return merge(full, params)(x, bias=lambda query: hidden, return_weights=True)

        same_attention(sparse, dense, params, x, grad)


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_the_mask_of_the_kernel_is_that_of_the_paper(arguments):
    config = config_of(**arguments)
    places = np.arange(config.num_tokens)
    sets = dict(merged=[(0, 1)] * 2, by_layer=[(0,), (1,)], by_head=[(0,), (1,)])
    by_layer = config.kind.factors == "by_layer"
    for i, which in enumerate(sets[config.kind.factors]):
        seen = Sees(config.kind.laid_out(config), which, config.prefix_tokens)
        expected = masks(config)[i if by_layer else 0, 0 if by_layer else i]
        np.testing.assert_array_equal(seen(places[:, None], places[None]), expected)


@pytest.fixture
def interpreted(monkeypatch):
    """The kernel for TPUs, run by its interpreter as on a TPU."""
    interpret = functools.partial(splash.splash_attention, interpret=True)
    monkeypatch.setattr(splash, "splash_attention", interpret)
    monkeypatch.setattr(choice, "device_in_use", lambda: ("tpu", "TPU v5 lite"))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("arguments", [CASES[1], CASES[8], CASES[11]], ids=str)
def test_the_kernel_gives_what_block_products_give(arguments, sharded, interpreted):
    config = config_of(**arguments)
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 2, config.num_tokens, WIDTH)).astype(np.float32)
    results = []
    for implementation in ("splash", "auto"):
        layer = SparseAttention(
            WIDTH,
            HEADS,
            rngs=nnx.Rngs(0),
            pattern=config.kind.laid_out(config),
            factors=config.kind.factors,
            implementation=implementation,
        )
        graphdef, params = split(layer)

        def total(params, x, graphdef=graphdef):
            y, _ = merge(graphdef, params)(x, layer=jnp.asarray(1))
            return (y * grad).sum(), y

        parallel = configs.default().parallel
        parallel.update(data=2, tensor=2)
        mesh = create_mesh(parallel, jax.devices()[:4]) if sharded else None
        with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
            results.append(jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, x))
    for found, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("arguments", [dict(), dict(pattern="fixed", factors="by_head")], ids=str)
def test_tpus_have_the_kernel(arguments):
    """Compiled ahead of time, on 64x64 patches: forward and two backward kernels."""
    pytest.importorskip("libtpu")
    config = config_of(grid=(64, 64), **arguments)
    mesh = create_mesh(configs.default().parallel, topology_devices("v5e:2x2"))
    layer = SparseAttention(
        1024,
        16,
        rngs=nnx.Rngs(0),
        dtype=jnp.bfloat16,
        pattern=config.kind.laid_out(config),
        factors=config.kind.factors,
        implementation="splash",
    )
    graphdef, params = split(layer)

    def total(params, x):
        return merge(graphdef, params)(x)[0].astype(jnp.float32).sum()

    whole, cut = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole), params)
    x = jax.ShapeDtypeStruct((4, 4096, 1024), jnp.bfloat16, sharding=cut)
    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, x).compile()
    assert compiled.as_text().count("tpu_custom_call") >= 3


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_macs_count_the_pairs_of_the_mask(arguments):
    config = config_of(**arguments)
    assert attention_macs(config) == 2 * int(masks(config).sum()) * WIDTH // HEADS
    others = 3 * config.num_tokens * (4 * WIDTH**2 + 2 * WIDTH * 12)
    assert encoder_macs(config) == attention_macs(config) + others


@pytest.mark.parametrize("factors", ["merged", "by_layer", "by_head"])
def test_a_model_shows_the_pattern_of_every_layer(vit, factors):
    """Through the scan over blocks, and unrolled with recomputation."""
    found = []
    for options in (dict(), dict(unroll=-1, remat="full")):
        model = vit.model(
            **SHAPE | dict(image_size=(8, 12), registers=1), **options,
            attention_kind=f"sparse(factors={factors!r})",
        )  # fmt: skip
        logits, out = vit.apply(model, vit.images(model))
        found.append(logits)
        for layer, mask in enumerate(masks(model.config)):
            weights = np.asarray(out[f"block{layer:02}/attention"])
            np.testing.assert_array_equal((weights > 0).all(0), mask)
    np.testing.assert_allclose(*found, atol=1e-5)
    full = model_config("ViT-Ti/16", **SHAPE | dict(image_size=(8, 12), registers=1))
    assert parameters(model.config) == parameters(full)


def test_a_causal_model_does_not_see_later_pixels(vit):
    model = vit.model(
        **SHAPE | dict(image_size=(8, 12), head="gap"),
        attention_kind="sparse(pattern='fixed', factors='by_head', causal=True)",
    )
    images = vit.images(model)
    changed = images.copy()
    changed[:, 4:] += 1.0  # the last two rows of patches
    encoded = [np.asarray(vit.apply(model, each)[1]["encoded"]) for each in (images, changed)]
    np.testing.assert_array_equal(encoded[0][:, :12], encoded[1][:, :12])
    assert np.abs(encoded[0][:, 12:] - encoded[1][:, 12:]).min() > 0


def test_training_has_no_gather_and_no_array_of_all_pairs():
    config = config_of(grid=(16, 16), pattern="strided")
    layer = SparseAttention(
        WIDTH, HEADS, rngs=nnx.Rngs(0), pattern=config.kind.laid_out(config), factors="merged"
    )
    graphdef, params = split(layer)

    def total(params, x):
        return merge(graphdef, params)(x)[0].sum()

    graph = jax.make_jaxpr(jax.grad(total))(params, jnp.zeros((1, 256, WIDTH)))

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            assert "gather" not in eqn.primitive.name and "scatter" not in eqn.primitive.name
            yield from (out.aval.size for out in eqn.outvars)
            for inner in core.jaxprs_in_params(eqn.params):
                yield from sizes(inner)

    assert max(sizes(graph.jaxpr)) < HEADS * 256**2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(stride=5), "stride 5 does not divide the 24 patches of the grid of 4x6; 6 does"),
        (dict(stride=48), "stride 48 does not divide"),
        (dict(pattern="strides"), "unknown pattern of model.attention_kind 'sparse' 'strides'"),
        (dict(factors="by_heads"), "by_head"),
        (dict(pattern="fixed", summary=7), "summary is 7, larger than the stride; give at most 6"),
        (dict(causal=True, prefix=1), "causal has no place for a class token"),
        (dict(causal=1), "causal is 1; give True or False"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        config_of(**arguments)


def test_the_kernel_needs_a_tpu(vit):
    options = dict(image_size=(8, 12), attention="splash", attention_kind="sparse")
    model = vit.model(**SHAPE | options)
    with pytest.raises(InputError, match="'splash' needs a TPU, and there is only cpu"):
        model(vit.images(model))
    with pytest.raises(InputError, match="needs model.attention 'xla' or 'splash', not 'blockwis"):
        model_config("ViT-Ti/16", **SHAPE | options | dict(attention="blockwise"))


def test_odd_heads_cannot_be_divided():
    options = SHAPE | dict(image_size=(8, 12), num_heads=3)
    with pytest.raises(InputError, match="even number of heads, not 3"):
        model_config("ViT-Ti/16", **options, attention_kind="sparse(factors='by_head')")

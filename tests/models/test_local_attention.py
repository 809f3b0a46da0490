"""Local attention against dense attention under a mask written pair by pair."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from vit_jax.errors import InputError
from vit_jax.models import abstract, build_model, merge, model_config, split
from vit_jax.models.attention.local import LocalAttention, RelativeOffsets
from vit_jax.models.attention.self_attention import SelfAttention
from vit_jax.models.flops import attention_macs, macs, parameters

HEADS, HEAD = 2, 4
WIDTH = HEADS * HEAD
SHAPE = dict(width=WIDTH, depth=2, mlp_dim=12, num_heads=HEADS, patch_size=2, num_classes=3)


def config_of(kind, grid, prefix=0, **options):
    head = dict(head="token", registers=prefix - 1) if prefix else dict(head="gap")
    size = (2 * grid[0], 2 * grid[1])
    return model_config("ViT-Ti/16", **SHAPE | head | options, image_size=size, attention_kind=kind)


def sees(kind, query, key):
    """Whether a patch (row, column) sees another, by the definition of the kind."""
    name, _, arguments = kind.partition("(")
    numbers = [int(word) for word in arguments.rstrip(")").split(",") if "=" not in word]
    size, halo = numbers[0], numbers[1] if len(numbers) > 1 else 0
    for q, k in zip(query, key):
        if name == "window" and abs(q - k) > size // 2:
            return False
        first = q // size * size
        if name != "window" and not first - halo <= k < first + size + halo:
            return False
    return True


def dense_mask(kind, grid, prefix):
    """Which token sees which: bool (N, N), token by token."""
    places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    tokens = [None] * prefix + places
    return np.array([[q is None or k is None or sees(kind, q, k) for k in tokens] for q in tokens])


def dense_offsets(relative, grid, prefix, query):
    """What the keys of offsets add to the logits, pair by pair: (B, H, N, N)."""
    places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    reach = len(relative["rows"]) // 2
    query = query / math.sqrt(HEAD)
    half = HEAD // 2
    places = np.array(places)
    dy, dx = (
        np.clip(axis[None] - axis[:, None], -reach, reach) + reach for axis in places.T
    )  # key minus query; beyond the reach the mask hides them
    total = jnp.einsum("bnhe,nmhe->bhnm", query[:, prefix:, :, :half], relative["rows"][dy])
    total += jnp.einsum("bnhe,nmhe->bhnm", query[:, prefix:, :, half:], relative["columns"][dx])
    return jnp.pad(total, ((0, 0), (0, 0), (prefix, 0), (prefix, 0)))


def pair_of_layers(config):
    """The local layer and a function that computes it densely, and their parameters."""
    kind = config.kind
    relative = RelativeOffsets(kind.reach, HEADS, HEAD, std=1.0, rngs=nnx.Rngs(1))
    layer = LocalAttention(
        WIDTH, HEADS, rngs=nnx.Rngs(0), cuts=kind.cuts(config),
        relative=relative if kind.relative else None,
    )  # fmt: skip
    graphdef, params = split(layer)
    full, _ = split(SelfAttention(WIDTH, HEADS, rngs=nnx.Rngs(0)))
    prefix = config.prefix_tokens
    mask = dense_mask(config.attention_kind, config.grid, prefix)

    def local(params, x, return_weights=True):
        return merge(graphdef, params)(x, return_weights=return_weights)

    def dense(params, x):
        params = dict(params)
        offsets = params.pop("relative", None)

        def bias(query):
            hidden = jnp.where(mask, 0.0, -jnp.inf)[None, None]
            if offsets is None:
                return hidden
            return hidden + dense_offsets(offsets, config.grid, prefix, query)

        return merge(full, params)(x, bias=bias, return_weights=True)

    return local, dense, params


KINDS = [
    ("block(2)", (4, 4), 0),
    ("block(3)", (5, 7), 2),
    ("block(5, relative=True)", (5, 3), 1),
    ("block(3, relative=True)", (4, 8), 0),
    ("halo(2, 1)", (4, 6), 0),
    ("halo(3, 2)", (7, 4), 2),
    ("halo(2, 3, relative=True)", (5, 6), 1),
    ("halo(3, 1, relative=True)", (6, 9), 0),
    ("window(3)", (5, 6), 0),
    ("window(5)", (9, 4), 2),
    ("window(3, relative=True)", (7, 5), 1),
    ("window(9, relative=True)", (5, 3), 0),
    ("window(1)", (3, 3), 1),
]


@pytest.mark.parametrize("kind, grid, prefix", KINDS, ids=str)
def test_outputs_weights_and_gradients_are_those_of_dense_attention(
    kind, grid, prefix, same_attention
):
    config = config_of(kind, grid, prefix)
    local, dense, params = pair_of_layers(config)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, config.num_tokens, WIDTH)).astype(np.float32)
    grad = rng.normal(size=x.shape).astype(np.float32)

    found = same_attention(local, dense, params, x, grad)
    hidden = ~dense_mask(kind, grid, prefix)
    assert not np.any(np.asarray(found[1])[:, :, hidden])  # padding is not counted
    np.testing.assert_allclose(np.sum(found[1], axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("kind, grid, prefix", KINDS, ids=str)
def test_macs_count_the_pairs_of_the_mask(kind, grid, prefix):
    config = config_of(kind, grid, prefix)
    mask = dense_mask(kind, grid, prefix)
    pairs = int(mask.sum())
    expected = 2 * pairs * WIDTH
    if config.kind.relative:
        # Each query meets a key for each row and one for each column of its window.
        places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
        patches = mask[prefix:, prefix:]
        for seen in patches:
            keys = [place for place, one in zip(places, seen) if one]
            lines = len({r for r, _ in keys}) + len({c for _, c in keys})
            expected += lines * WIDTH // 2
    assert attention_macs(config) == 2 * expected  # two layers


@pytest.mark.parametrize("kind", ["block(5)", "halo(3, 4)", "window(9)"])
def test_a_window_that_covers_the_grid_is_full_attention(vit, kind):
    options = dict(width=12, num_heads=3, image_size=(10, 8), patch_size=2, registers=2)
    full, local = (vit.model(**options, attention_kind=name) for name in ("full", kind))
    assert macs(local.config) == macs(full.config)
    images = vit.images(full)
    (logits, expected), (ours, found) = (vit.apply(model, images) for model in (full, local))
    np.testing.assert_allclose(ours, logits, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4)


@pytest.mark.parametrize("kind", ["block(3)", "halo(2, 1, relative=True)", "window(3)"])
def test_the_program_has_no_gather_and_no_array_of_all_pairs(kind):
    config = config_of(kind, (12, 12), 1)
    local, _, params = pair_of_layers(config)

    def total(params, x):
        return local(params, x, return_weights=False)[0].sum()

    graph = jax.make_jaxpr(jax.grad(total))(params, jnp.zeros((1, config.num_tokens, WIDTH)))

    def sizes(jaxpr):
        for eqn in jaxpr.eqns:
            assert "gather" not in eqn.primitive.name and "scatter" not in eqn.primitive.name
            yield from (out.aval.size for out in eqn.outvars)
            for inner in core.jaxprs_in_params(eqn.params):
                yield from sizes(inner)

    assert max(sizes(graph.jaxpr)) < HEADS * config.num_tokens**2


def test_dropout_rotation_and_other_blocks(vit):
    """Options of a ViT act: the same keys give the same numbers, others give others."""
    options = dict(width=24, num_heads=3, image_size=(12, 10), patch_size=2, head="gap")
    model = vit.model(
        **options, attention_kind="halo(2, 1)", rotary="mixed", block="branched(count=2)",
        attention_dropout=0.5, qkv_bias="no_key", qk_norm=True, attention_norm=True,
    )  # fmt: skip
    images = vit.images(model)
    keys = [jax.random.split(jax.random.key(seed), 2) for seed in (0, 0, 1)]
    first, again, other = (vit.apply(model, images, own)[0] for own in keys)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert "block00/branch1/attention" in vit.apply(model, images)[1]


def test_parameters_are_counted():
    config = config_of("halo(3, 2, relative=True)", (7, 4), 2)
    full = config_of("full", (7, 4), 2)
    offsets = 2 * (2 * 4 + 1) * WIDTH // 2
    assert parameters(config) == parameters(full) + config.depth * offsets


def test_keys_of_offsets_suit_every_resolution():
    """Also where a block is cut off at a smaller grid."""
    for kind in (
        "block(4, relative=True)",
        "halo(3, 2, relative=True)",
        "window(5, relative=True)",
    ):
        shapes = []
        for grid in ((4, 3), (9, 12)):
            config = config_of(kind, grid, posemb="none")
            _, params = abstract(lambda rngs: build_model(config, rngs))  # noqa: B023
            shapes.append(jax.tree.map(lambda leaf: leaf.shape, params))
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", ["halo(2, 1, relative=True)", "sparse(pattern='fixed')"])
def test_products_in_bfloat16_are_near_those_in_float32(vit, kind):
    options = dict(width=12, num_heads=3, image_size=(10, 8), patch_size=2, attention_kind=kind)
    exact, coarse = (vit.model(**options, dtype=dtype) for dtype in ("float32", "bfloat16"))
    images = vit.images(exact)
    (_, expected), (_, found) = (vit.apply(model, images) for model in (exact, coarse))
    weights = found["block00/attention"]
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, expected["block00/attention"], atol=0.05)
    assert found["block00/output"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kind="block(8)"), "size is 8, larger than the grid of 5x7 patches; give at most 7"),
        (dict(kind="block(0)"), "size is 0; give a whole number of patches, 1 or more"),
        (dict(kind="block(2.5)"), "size is 2.5"),
        (dict(kind="block"), r"give size, as in block\(size=\.\.\.\)"),
        (dict(kind="window(3, relativ=True)"), "'relativ' .did you mean 'relative'"),
        (dict(kind="window(3, True, 1)"), "window takes only size without a name; .* relative="),
        (dict(kind="block(3, size=3)"), "gives size twice"),
        (dict(kind="block(size=3, size=3)"), "gives size twice"),
        (dict(kind="quadratic(3)"), "quadratic takes no arguments"),
        (dict(kind="sparse(summary=2)"), "only the pattern 'fixed' has summaries"),
        (dict(kind="offsets(positions=10000000)"), "at most 4096"),
        (dict(kind="halo(2, 7)"), "halo is 7, larger than the grid"),
        (dict(kind="window(4)"), "size is 4; give an odd number"),
        (dict(kind="window(15)"), "size is 15, larger than the grid of 5x7 patches; .* 13"),
        (dict(kind="window(3, relative=1)"), "relative is 1; give True or False"),
        (dict(kind="window(3, relative=True)", num_heads=8), "heads of an even width"),
        (dict(kind="window(3)", posemb="relative"), "another model.posemb than 'relative'; rela"),
        (dict(kind="window(3)", position_bias="mlp"), "needs model.position_bias 'none'"),
        (dict(kind="window(3)", attention="cudnn", dtype="bfloat16"), "model.attention 'xla'"),
        (dict(kind="window(3)", patch_dropout=0.5), "model.attention_kind 'full'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, message):
    options = dict(options)
    with pytest.raises(InputError, match=message):
        config_of(options.pop("kind"), (5, 7), **options)

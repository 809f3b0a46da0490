"""Local attention of the Image Transformer against dense attention under a mask by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.models import build_model, merge, model_config, split
from vit_jax.models.attention.local import LocalAttention
from vit_jax.models.attention.self_attention import SelfAttention
from vit_jax.models.flops import attention_macs
from vit_jax.models.pixels.embedding import Pixels
from vit_jax.models.pixels.generate import complete

HEADS, WIDTH = 2, 8
SHAPE = dict(width=WIDTH, depth=2, mlp_dim=12, num_heads=HEADS, patch_size=1, num_classes=3)
KINDS = [
    ("local_1d(4)", (3, 5)),  # the last block is cut off
    ("local_1d(15)", (3, 5)),
    ("local_1d(1)", (2, 3)),
    ("local_2d(2, 3, above=1, beside=2)", (5, 7)),
    ("local_2d(2, 2, above=3, beside=0)", (6, 4)),
    ("local_2d(3, 4, above=0, beside=5)", (6, 8)),
]


def config_of(kind, grid, **options):
    options = dict(head="gap") | options
    return model_config("ViT-Ti/16", **SHAPE | options, image_size=grid, attention_kind=kind)


def mask_of(kind, grid):
    """Which patch sees which, pair by pair: bool (N, N)."""
    numbers = [int(word.split("=")[-1]) for word in kind[9:-1].split(",")]
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]

    def sees(query, key):
        if key > query:
            return False
        if kind.startswith("local_1d"):
            return key // numbers[0] >= query // numbers[0] - 1
        rows, columns, above, beside = numbers
        (row, column), (key_row, key_column) = places[query], places[key]
        top, left = row // rows * rows, column // columns * columns
        inside = left - beside <= key_column < left + columns + beside
        return inside and top - above <= key_row < top + rows

    return np.array([[sees(q, k) for k in range(len(places))] for q in range(len(places))])


@pytest.mark.parametrize("kind, grid", KINDS, ids=str)
def test_outputs_weights_and_gradients_are_those_of_dense_attention(kind, grid, same_attention):
    config = config_of(kind, grid)
    cuts = config.kind.cuts(config)
    layer = LocalAttention(WIDTH, HEADS, rngs=nnx.Rngs(0), cuts=cuts, causal=True)
    graphdef, params = split(layer)
    full, _ = split(SelfAttention(WIDTH, HEADS, rngs=nnx.Rngs(0)))
    mask = mask_of(kind, grid)
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 2, len(mask), WIDTH)).astype(np.float32)

    def local(params, x):
        return merge(graphdef, params)(x, return_weights=True)

    def dense(params, x):
        hidden = jnp.where(mask, 0.0, -jnp.inf)[None, None]
        return merge(full, params)(x, bias=lambda query: hidden, return_weights=True)

    same_attention(local, dense, params, x, grad)
    assert attention_macs(config) == 2 * 2 * int(mask.sum()) * WIDTH  # two layers, two products


@pytest.mark.parametrize("kind", ["local_1d(4)", "local_2d(2, 3, above=1, beside=2)"])
def test_pixels_are_generated_one_by_one(kind):
    """A later pixel changes no earlier prediction, and an earlier one within reach does."""
    config = model_config(
        "iGPT-S", width=WIDTH, depth=2, mlp_dim=12, num_heads=HEADS, palette=8, image_size=(4, 6),
        num_classes=0, attention_kind=kind,
    )  # fmt: skip
    assert config.autoregressive
    model = build_model(config, nnx.Rngs(0))
    model.color_head.kernel[...] = jax.random.normal(jax.random.key(1), (WIDTH, 8))
    tokens = jax.random.randint(jax.random.key(2), (1, 24), 0, 8)
    colors = jax.jit(lambda tokens: model.predictions(Pixels(tokens))[1])
    before = colors(tokens)
    after = colors(tokens.at[0, 9].set((tokens[0, 9] + 1) % 8))
    changed = np.abs(np.asarray(after - before)).max(-1)[0] > 1e-6
    assert not changed[:10].any() and changed[10]
    done = complete(model, tokens, 12, key=jax.random.key(0), temperature=0.0)
    np.testing.assert_array_equal(done[:, :12], tokens[:, :12])
    predicted = np.asarray(colors(done)).argmax(-1)
    np.testing.assert_array_equal(done[:, 12:], predicted[:, 12:])


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("local_1d(0)", {}, "size is 0; give a whole number"),
        ("local_1d(36)", {}, "size is 36, larger than the sequence of 35 patches; give at most 35"),
        ("local_2d(6, 2, above=1, beside=1)", {}, "rows is 6, larger than the grid of 5x7"),
        ("local_2d(2, 2, above=5, beside=1)", {}, "above is 5.* give at most 4"),
        ("local_2d(2, 2)", {}, "give above and beside, as in local_2d"),
        ("local_1d(4)", dict(head="token"), "is causal and has no place for a class token"),
        ("local_1d(4)", dict(posemb="relative"), "another model.posemb than 'relative'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(kind, options, message):
    with pytest.raises(InputError, match=message):
        config_of(kind, (5, 7), **options)

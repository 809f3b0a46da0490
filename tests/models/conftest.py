"""Models with arbitrary parameters, and the ViT's equations written out in NumPy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import ndtr

from vit_jax.models import build_model, merge, model_config, split

TINY = dict(
    width=12,
    depth=3,
    mlp_dim=20,
    num_heads=3,
    patch_size=(4, 2),
    image_size=(8, 6),
    num_classes=5,
)


def random_model(*, seed=0, **options):
    """A tiny model whose parameters all matter; needs no compiled initialisation."""
    config = model_config("ViT-Ti/16", **TINY | options)
    model = nnx.eval_shape(lambda: build_model(config, nnx.Rngs(0)))
    graphdef, params = split(model)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if path[-1].key in ("scale", "scale1", "scale2") else 0.0
        return jnp.asarray(rng.normal(centre, 0.3, leaf.shape), jnp.float32)

    return merge(graphdef, jax.tree_util.tree_map_with_path(draw, params))


def random_images(model, batch=2, seed=1):
    shape = (batch, *model.config.image_size, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def apply(model, images, keys=None):
    """Logits and intermediates, compiled: faster than operation by operation."""
    graphdef, params = split(model)

    def run(params, images, keys):
        return merge(graphdef, params)(images, keys=keys, return_intermediates=True)

    return jax.jit(run)(params, images, keys)


def reference(model, images, drop=lambda site, x: x):
    """Equations 1 to 4 of the paper in float64: logits and what return_intermediates gives.

    Args:
      drop: (site, x) -> x, applied where the paper drops out: sites "embedding",
        "attention", "hidden" and "mlp"; and "weights" for those of attention.
    """
    config = model.config
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), split(model)[1])
    embedded = drop("embedding", _embed(params, images.astype(np.float64), config))
    x, out = embedded, {"embedding": embedded}
    for i in range(config.depth):
        block = jax.tree.map(lambda p: p[i], params["blocks"])  # noqa: B023
        shared = params.get("posemb", {})
        posemb = block["posemb"] if config.posemb_where == "layers" else shared
        if config.posemb_where != "stem":
            x = _add_positions(x, posemb, config)
        if config.attention_kind == "axial":
            for axis in ("row", "column"):
                mask = _same_line(config.grid, axis)
                x, weights = _block(x, block[axis], config, drop, posemb, mask)
                out[f"block{i:02}/{axis}/attention"] = weights
        else:
            x, out[f"block{i:02}/attention"] = _block(x, block, config, drop, posemb)
        out[f"block{i:02}/output"] = x
    out["encoded"] = _norm(x, params["norm"], config)
    features = _pool(out["encoded"], params, config)
    if config.pre_logits:
        features = np.tanh(_dense(features, params["pre_logits"]))
    out["pre_logits"] = features
    return (_dense(features, params["head"]) if config.num_classes else features), out


def _embed(params, images, config):
    (ph, pw), (rows, columns) = config.patch_size, config.grid
    patches = [
        images[:, r * ph : (r + 1) * ph, c * pw : (c + 1) * pw].reshape(len(images), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    kernel = params["embedding"]["kernel"].reshape(-1, config.width)
    x = np.stack(patches, 1) @ kernel + params["embedding"]["bias"]
    prefix = [params[name] for name in ("cls", "registers") if name in params]
    x = np.concatenate([*(np.broadcast_to(t, (len(x), *t.shape[1:])) for t in prefix), x], 1)
    if config.posemb_where == "stem":
        x = _add_positions(x, params.get("posemb", {}), config)
    return x


def _add_positions(x, p, config):
    """The vector of every slot and of every patch, one after the other."""
    rows, columns = config.grid
    x = x.copy()
    before = x.shape[1] - rows * columns
    if "embedding" in p:
        slots = p["embedding"].shape[1] - rows * columns
        x[:, :slots] += p["embedding"][0, :slots]
        x[:, before:] += p["embedding"][0, slots:]
    if "rows" in p:
        if "prefix" in p:
            x[:, : len(p["prefix"])] += p["prefix"]
        for r in range(rows):
            for c in range(columns):
                position = np.concatenate([p["columns"][c], p["rows"][r]])
                x[:, before + r * columns + c] += position
    return x


def _relative(q, p, config):
    """Pair by pair: the query's product with the key of the offset p_q - p_k."""
    patches = config.grid[0] * config.grid[1]
    before = q.shape[2] - patches
    bias = np.zeros((*q.shape[:2], q.shape[2], q.shape[2]))
    for i in range(patches):
        for j in range(patches):
            key = p["offsets"][patches - 1 - (i - j)]
            bias[:, :, before + i, before + j] = np.einsum("bhd,hd->bh", q[:, :, before + i], key)
    return bias


def _same_line(grid, axis):
    """0 between patches of the same row or column, -inf between others."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    line = rows if axis == "row" else columns
    return np.where(line[:, None] == line, 0.0, -np.inf)


def _block(x, p, config, drop, posemb, mask=0.0):
    """Tokens after a block, and its attention weights."""
    normed = _norm(x, p["norm1"], config)
    qkv = np.einsum("bnd,dshe->sbhne", normed, p["attention"]["qkv"]["kernel"])
    q, k, v = qkv + p["attention"]["qkv"]["bias"][:, None, :, None]
    if config.qk_norm:
        q = _norm(q, p["attention"]["query_norm"], config)
        k = _norm(k, p["attention"]["key_norm"], config)
    scores = q @ k.swapaxes(2, 3)
    if "offsets" in posemb:
        scores = scores + _relative(q, posemb, config)
    weights = _softmax(scores / np.sqrt(config.width // config.num_heads) + mask)
    attended = np.einsum("bhnm,bhme->bnhe", drop("weights", weights), v)
    attended = attended.reshape(*x.shape)
    kernel = p["attention"]["out"]["kernel"].reshape(config.width, config.width)
    branch = attended @ kernel + p["attention"]["out"]["bias"]
    x = x + drop("attention", branch) * p.get("scale1", 1.0)
    hidden = drop("hidden", _gelu(_dense(_norm(x, p["norm2"], config), p["mlp"]["fc1"]), config))
    return x + drop("mlp", _dense(hidden, p["mlp"]["fc2"])) * p.get("scale2", 1.0), weights


def _pool(x, params, config):
    if config.head == "token":
        return x[:, 0]
    patches = x[:, config.registers :]
    if config.head == "gap":
        return patches.mean(1)
    p = params["map_head"]
    query = np.einsum("d,dhe->he", p["probe"][0, 0], p["query"]["kernel"]) + p["query"]["bias"]
    key, value = np.moveaxis(
        np.einsum("bnd,dshe->bnshe", patches, p["key_value"]["kernel"]) + p["key_value"]["bias"],
        2,
        0,
    )
    scores = np.einsum("he,bnhe->bhn", query, key) / np.sqrt(query.shape[-1])
    pooled = np.einsum("bhn,bnhe->bhe", _softmax(scores), value)
    pooled = np.einsum("bhe,hed->bd", pooled, p["out"]["kernel"]) + p["out"]["bias"]
    hidden = _gelu(_dense(_norm(pooled, p["norm"], config), p["mlp"]["fc1"]), config)
    return pooled + _dense(hidden, p["mlp"]["fc2"])


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _norm(x, p, config):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + config.norm_eps) * p["scale"] + p["bias"]


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _gelu(x, config):
    if config.gelu == "erf":
        return x * ndtr(x)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.fixture(scope="session")
def vit():
    """A namespace of the functions above: `vit.model(**options)`, `vit.images(model)`, ..."""
    return types.SimpleNamespace(
        model=random_model, images=random_images, apply=apply, reference=reference
    )


@pytest.fixture
def same_attention():
    """Compares two attention layers, functions (params, x) -> (y, weights), and their gradients.

    Returns what the first computes: y, weights, gradients of parameters and of x.
    """

    def compare(ours, theirs, params, x, grad):
        def all_of(function):
            def run(params, x):
                (y, weights), backward = jax.vjp(function, params, x)
                return y, weights, backward((grad, jnp.zeros_like(weights)))

            return jax.jit(run)(params, x)

        found, expected = all_of(ours), all_of(theirs)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)
        return found

    return compare

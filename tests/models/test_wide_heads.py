"""Heads of full width (1911.03584) against PyTorch, and blocks with norms of sums."""

import math

import jax
import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.models import merge, model_config, split
from vit_jax.models.flops import macs, parameters

try:
    import torch
except ImportError:  # there is no build for this Python
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="could not import 'torch'")

GRID, WIDTH, HEADS = (3, 4), 10, 3
OPTIONS = dict(
    width=WIDTH, depth=2, mlp_dim=16, num_heads=HEADS, patch_size=2, image_size=(6, 8),
    num_classes=5, head="gap", posemb="none", block="sum_norm", final_norm=False, gelu="erf",
    norm_eps=1e-12,
)  # fmt: skip
PLACES = [(r, c) for r in range(GRID[0]) for c in range(GRID[1])]


def gaussian(scores):
    """exp(-a^2 |offset - centre|^2 / 2), which the logits equal up to a constant per query."""
    logits = torch.empty(HEADS, len(PLACES), len(PLACES))
    for h in range(HEADS):
        centre, spread = scores["centres"][h], scores["spreads"][h]
        for i, query in enumerate(PLACES):
            for j, key in enumerate(PLACES):
                offset = torch.tensor(key) - torch.tensor(query) - torch.tensor(centre)
                logits[h, i, j] = -0.5 * spread**2 * offset.square().sum()
    return logits


def looked_up(scores):
    """Embedding, then a linear layer, for rows and for columns."""
    total = torch.zeros(len(PLACES), len(PLACES), HEADS)
    for axis, name in enumerate(("row", "column")):
        table = torch.nn.Embedding.from_pretrained(torch.tensor(scores[f"{name}s"]))
        kernel = torch.tensor(scores[f"{name}_heads"]["kernel"])
        at = torch.tensor(PLACES)[:, axis]
        index = at[None] - at[:, None] + table.num_embeddings // 2
        total += torch.nn.functional.linear(table(index), kernel.T)
    return total.permute(2, 0, 1)


def torch_attention(params, x):
    """The layer of the publication: (B, N, D) -> (B, N, D) and weights."""
    scores = params["scores"]
    logits = (gaussian(scores) if "centres" in scores else looked_up(scores))[None]
    if "query_key" in params:
        kernel, bias = (torch.tensor(params["query_key"][name]) for name in ("kernel", "bias"))
        query, key = (torch.einsum("bnd,dhe->bhne", x, kernel[:, i]) + bias[i][:, None]
                      for i in range(2))  # fmt: skip
        logits = logits + query @ key.transpose(2, 3) / math.sqrt(WIDTH)
    weights = torch.softmax(logits, -1)
    averages = (weights @ x[:, None]).transpose(1, 2).flatten(2)
    for name in ("value", "projection"):
        kernel = torch.tensor(params[name]["kernel"]).reshape(-1, WIDTH)
        averages = torch.nn.functional.linear(
            averages, kernel.T, torch.tensor(params[name]["bias"])
        )
    return averages, weights.expand(len(x), -1, -1, -1)


def torch_block(params, x, attention):
    """Sums with norms, as in BERT."""
    functional = torch.nn.functional

    def dense(p, x):
        return functional.linear(x, torch.tensor(p["kernel"]).T, torch.tensor(p["bias"]))

    def norm(p, x):
        scale, bias = torch.tensor(p["scale"]), torch.tensor(p["bias"])
        return functional.layer_norm(x, (WIDTH,), scale, bias, 1e-12)

    y, weights = attention(params["attention"], x)
    x = norm(params["norm1"], x + y)
    hidden = functional.gelu(dense(params["mlp"]["fc1"], x))
    return norm(params["norm2"], x + dense(params["mlp"]["fc2"], hidden)), weights


KINDS = ["quadratic", "offsets(positions=4)", "offsets(positions=6, content=True)"]


@needs_torch
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_is_the_publications(vit, kind):
    model = vit.model(**OPTIONS, attention_kind=kind)
    images = vit.images(model)
    logits, out = vit.apply(model, images)
    params = jax.tree.map(np.asarray, split(model)[1])
    x = torch.tensor(np.asarray(out["embedding"]))
    for i in range(2):
        block = jax.tree.map(lambda leaf: leaf[i], params["blocks"])  # noqa: B023
        x, weights = torch_block(block, x, torch_attention)
        np.testing.assert_allclose(out[f"block{i:02}/attention"], weights, atol=1e-5)
        np.testing.assert_allclose(out[f"block{i:02}/output"], x, atol=1e-4)
    head = params["head"]
    np.testing.assert_allclose(logits, x.mean(1).numpy() @ head["kernel"] + head["bias"], atol=1e-4)


@needs_torch
def test_norms_of_sums_are_pytorchs_encoder_layer(vit):
    options = dict(OPTIONS, width=12, depth=1, attention_kind="full")
    model = vit.model(**options)
    _, out = vit.apply(model, vit.images(model))
    p = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf[0])), split(model)[1]["blocks"])
    layer = torch.nn.TransformerEncoderLayer(
        12, HEADS, 16, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True, norm_first=False
    )
    qkv, outward = p["attention"]["qkv"], p["attention"]["out"]
    state = {
        "self_attn.in_proj_weight": qkv["kernel"].reshape(12, 36).T,
        "self_attn.in_proj_bias": qkv["bias"].reshape(36),
        "self_attn.out_proj.weight": outward["kernel"].reshape(12, 12).T,
        "self_attn.out_proj.bias": outward["bias"],
    }
    for ours, theirs in (("fc1", "linear1"), ("fc2", "linear2")):
        state |= {f"{theirs}.weight": p["mlp"][ours]["kernel"].T}
        state |= {f"{theirs}.bias": p["mlp"][ours]["bias"]}
    for name in ("norm1", "norm2"):
        state |= {f"{name}.weight": p[name]["scale"], f"{name}.bias": p[name]["bias"]}
    layer.load_state_dict(state)
    expected = layer(torch.tensor(np.asarray(out["embedding"]))).detach()
    np.testing.assert_allclose(out["block00/output"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind, millions",
    [("quadratic", 12.1), ("offsets", 12.3), ("offsets(content=True)", 29.5)],
)
def test_the_published_models_have_their_number_of_parameters(kind, millions):
    """Table 1 of 1911.03584, CIFAR-10."""
    published = dict(OPTIONS, width=400, depth=6, mlp_dim=512, num_heads=9, image_size=32)
    config = model_config("ViT-Ti/2", **published | dict(num_classes=10), attention_kind=kind)
    assert parameters(config) / 1e6 == pytest.approx(millions, rel=0.005)
    assert config.num_tokens == 256


def test_macs_written_out():
    """256 tokens of width 400, 9 heads of that width, MLPs of 512."""
    published = dict(OPTIONS, width=400, depth=1, mlp_dim=512, num_heads=9, image_size=32)
    n, d, h = 256, 400, 9
    ends = n * 12 * d + 10 * d
    common = h * n * n * d + n * h * d * d + n * d * d + 2 * n * d * 512 + ends
    learnt = common + 2 * 31 * d * h
    content = learnt + n * d * 2 * h * d + h * n * n * d
    for kind, expected in (
        ("quadratic", common), ("offsets", learnt), ("offsets(content=True)", content),
    ):  # fmt: skip
        config = model_config("ViT-Ti/2", **published | dict(num_classes=10), attention_kind=kind)
        assert macs(config) == expected


def test_dropout_acts_on_weights_and_on_branches_alone(vit):
    """Each example has its own keys; without any rate, keys change nothing."""
    images = None
    for rates, changes in (
        ({}, False),
        ({"attention_dropout": 0.5}, True),
        ({"dropout": 0.5}, True),
    ):
        model = vit.model(**OPTIONS, **rates, attention_kind="offsets(positions=4)")
        images = vit.images(model)
        evaluated = vit.apply(model, images)[0]
        trained = vit.apply(model, images, jax.random.split(jax.random.key(0), 2))[0]
        assert (np.abs(trained - evaluated).max() > 1e-3) == changes
    graphdef, params = split(model)
    assert merge(graphdef, params).blocks.mlp.dropout == 0.0


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(head="token"), "no offset to others; set model.head to 'gap' or 'map'"),
        (dict(registers=1), "no offset to others"),
        (dict(posemb="relative"), "another model.posemb than 'relative'"),
        (dict(rotary="centred"), "model.rotary 'none'"),
        (dict(qk_norm=True), "needs model.qk_norm False"),
        (dict(head="map"), "set model.map_heads"),
        (dict(attention_kind="offsets(positions=3)"), "positions is 3, fewer than .* 3x4 .* 4"),
        (dict(attention_kind="offsets(content=1)"), "content is 1; give True or False"),
        (dict(attention_kind="full"), "width 10 is not divisible by its 3 heads"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        model_config("ViT-Ti/2", **OPTIONS | dict(attention_kind="quadratic") | options)

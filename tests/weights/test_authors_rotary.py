"""Files of PE and EVA-02 as published: features of an independent statement of their networks."""

import collections

import numpy as np
import pytest

from vit_jax import weights
from vit_jax.errors import InputError

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


def noise(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def angles(rows, columns, head_width, first):
    """(patches, head width / 2): `first` of the axes, then the other; base 10000."""
    quarter = head_width // 4
    speeds = 10_000 ** (-torch.arange(quarter) / quarter)
    y = (rows[:, None] * speeds)[:, None].expand(-1, len(columns), -1)
    x = (columns[:, None] * speeds)[None].expand(len(rows), -1, -1)
    return torch.cat([y, x] if first == "y" else [x, y], dim=-1).flatten(0, 1)


def attend(query, key, value, heads, turn):
    """Attention of patches that are rotated by `turn`, and of a class token that is not."""

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def rotate(x):
        pairs = x.unflatten(-1, (-1, 2))
        padded = F.pad(turn, (0, 0, x.shape[2] - len(turn), 0))
        cos, sin = padded.cos(), padded.sin()
        a, b = pairs[..., 0], pairs[..., 1]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)

    query, key, value = rotate(split(query)), rotate(split(key)), split(value)
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (logits.softmax(-1) @ value).transpose(1, 2).flatten(-2)


def resized(table, side, height, width, tokens, **how):
    """A position embedding for another grid."""
    grid = table[tokens:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=(height, width), **how).flatten(2)[0].T
    return torch.cat([table[:tokens], grid])


def mlp(width, hidden):
    layers = dict(c_fc=nn.Linear(width, hidden), gelu=nn.GELU(), c_proj=nn.Linear(hidden, width))
    return nn.Sequential(collections.OrderedDict(layers))


class PeAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, heads, turn):
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attend(*qkv, heads, turn))


class PeBlock(nn.Module):
    def __init__(self, width, scaled):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = PeAttention(width), mlp(width, 2 * width)
        if scaled:
            self.ls_1, self.ls_2 = nn.Module(), nn.Module()
            self.ls_1.gamma, self.ls_2.gamma = (nn.Parameter(torch.ones(width)) for _ in range(2))

    def forward(self, x, heads, turn):
        scales = (self.ls_1.gamma, self.ls_2.gamma) if hasattr(self, "ls_1") else (1, 1)
        x = x + scales[0] * self.attn(self.ln_1(x), heads, turn)
        return x + scales[1] * self.mlp(self.ln_2(x))


class PerceptionEncoder(nn.Module):
    def __init__(self, token, pooled, scaled=False, width=192, patch=8, side=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        if token:
            self.class_embedding = nn.Parameter(torch.ones(width))
        self.positional_embedding = nn.Parameter(torch.ones(token + side**2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(PeBlock(width, scaled) for _ in range(2))
        if pooled:
            self.ln_post = nn.LayerNorm(width)
            self.proj = nn.Parameter(torch.ones(width, 12))
            self.attn_pool = nn.Module()
            self.attn_pool.probe = nn.Parameter(torch.randn(1, 1, width))
            self.attn_pool.attn = nn.MultiheadAttention(width, 8, batch_first=True)
            self.attn_pool.layernorm = nn.LayerNorm(width)
            self.attn_pool.mlp = mlp(width, 4 * width)
        self.token, self.pooled, self.heads, self.side = token, pooled, 3, side

    def forward(self, images):
        x = self.conv1(images)
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if self.token:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        how = dict(mode="bilinear", align_corners=False)
        x = x + resized(self.positional_embedding, self.side, height, width, self.token, **how)
        # Where there is a class token, it has position 0 and patches count from 1.
        sides = (torch.arange(n) + float(self.token) for n in (height, width))
        turn = angles(*sides, x.shape[-1] // self.heads, "x")
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x, self.heads, turn)
        if not self.pooled:
            return x[:, int(self.token) :].mean(1)
        x, pool = self.ln_post(x), self.attn_pool
        x = pool.attn(pool.probe.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return (x + pool.mlp(pool.layernorm(x)))[:, 0] @ self.proj


PE = dict(
    core=(True, True),
    core_without_token=(False, True),
    spatial=(True, False),
    lang=(True, False, True),
    lang_without_token=(False, False, True),
)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("case", PE)
def test_perception_encoder(case, whole, tmp_path, randomise, run_ours, run_torch):
    model = randomise(PerceptionEncoder(*PE[case]))
    state = {("visual." if whole else "") + name: x for name, x in model.state_dict().items()}
    if whole:
        state |= {"logit_scale": torch.ones(()), "transformer.resblocks.0.ln_1.bias": torch.ones(3)}
    torch.save(state, tmp_path / "pe.pt")
    for size in ((32, 32), (24, 48)):
        read = weights.read(tmp_path / "pe.pt", image_size=size, resample="bilinear")
        expected = run_torch(model, noise(*size)).numpy()
        np.testing.assert_allclose(run_ours(read, noise(*size)), expected, rtol=1e-4, atol=1e-4)
    assert read.family.startswith("Perception Encoder")
    assert sum("set aside" in line for line in read.report) == (2 if whole else 0)
    assert any("no pooling" in line for line in read.report) == (not PE[case][1])


def eva_state(packed, sub_norms, classes=5, width=32, hidden=48, patch=8, side=4, heads=2):
    """The tensors of an EVA-02; the smaller models pack more, the larger have a norm in the MLP."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
        return scale * torch.randn(shape, generator=generator)

    def norm(name, size):
        return {f"{name}.weight": 1 + draw(size), f"{name}.bias": draw(size)}

    def dense(name, outputs, inputs):
        return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}

    state = {"cls_token": draw(1, 1, width), "pos_embed": draw(1, side**2 + 1, width)}
    state |= {"patch_embed.proj.weight": draw(width, 3, patch, patch)}
    state |= {"patch_embed.proj.bias": draw(width)}
    for i in range(2):
        block = f"blocks.{i}."
        state |= norm(f"{block}norm1", width) | norm(f"{block}norm2", width)
        state |= {f"{block}attn.q_bias": draw(width), f"{block}attn.v_bias": draw(width)}
        if packed:
            state[f"{block}attn.qkv.weight"] = draw(3 * width, width)
            state |= dense(f"{block}mlp.w12", 2 * hidden, width)
        else:
            state |= {f"{block}attn.{part}_proj.weight": draw(width, width) for part in "qkv"}
            state |= dense(f"{block}mlp.w1", hidden, width) | dense(f"{block}mlp.w2", hidden, width)
        state |= dense(f"{block}attn.proj", width, width) | dense(f"{block}mlp.w3", width, hidden)
        if sub_norms:
            state |= norm(f"{block}mlp.ffn_ln", hidden)
    state |= norm("fc_norm", width) | dense("head", classes, width)
    grid = torch.arange(side) * 16 / side
    table = angles(grid, grid, width // heads, "y").repeat_interleave(2, dim=1)
    state |= {"rope.freqs_cos": table.cos(), "rope.freqs_sin": table.sin()}
    return state | {f"blocks.0.attn.{name}": state[name] for name in state if "rope" in name}


def eva(state, images, heads=2, side=4):
    """The logits of an EVA-02 for images (B, 3, H, W)."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def dense(name, x):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    kernel = state["patch_embed.proj.weight"]
    x = F.conv2d(images, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[-1])
    height, width = x.shape[2:]
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    how = dict(mode="bicubic", antialias=True)
    x = x + resized(state["pos_embed"][0], side, height, width, 1, **how)
    grid = (torch.arange(n) * 16 / n for n in (height, width))
    turn = angles(*grid, x.shape[-1] // heads, "y")
    for i in range(2):
        block = f"blocks.{i}."
        y = norm(f"{block}norm1", x)
        if f"{block}attn.qkv.weight" in state:
            query, key, value = dense(f"{block}attn.qkv", y).chunk(3, dim=-1)
        else:
            query, key, value = (dense(f"{block}attn.{part}_proj", y) for part in "qkv")
        query, value = query + state[f"{block}attn.q_bias"], value + state[f"{block}attn.v_bias"]
        x = x + dense(f"{block}attn.proj", attend(query, key, value, heads, turn))
        y = norm(f"{block}norm2", x)
        if f"{block}mlp.w12.weight" in state:
            gate, hidden = dense(f"{block}mlp.w12", y).chunk(2, dim=-1)
        else:
            gate, hidden = dense(f"{block}mlp.w1", y), dense(f"{block}mlp.w2", y)
        y = F.silu(gate) * hidden
        y = norm(f"{block}mlp.ffn_ln", y) if f"{block}mlp.ffn_ln.weight" in state else y
        x = x + dense(f"{block}mlp.w3", y)
    return dense("head", norm("fc_norm", x[:, 1:].mean(1)))


@pytest.mark.parametrize("packed,sub_norms", [(True, False), (False, True)])
def test_eva02(packed, sub_norms, tmp_path, run_ours):
    state = eva_state(packed, sub_norms)
    torch.save(dict(module=state), tmp_path / "eva02.pt")
    for size in ((32, 32), (24, 48)):
        read = weights.read(tmp_path / "eva02.pt", image_size=size, resample="bicubic_antialias")
        images = torch.from_numpy(noise(*size)).permute(0, 3, 1, 2)
        expected = eva(state, images).numpy()
        np.testing.assert_allclose(run_ours(read, noise(*size)), expected, rtol=1e-4, atol=1e-4)
    assert (read.config.num_heads, read.config.mlp_norm) == (2, sub_norms)


def test_eva02_pretrained(tmp_path):
    state = eva_state(False, True)
    for end in ("weight", "bias"):
        state[f"norm.{end}"] = state.pop(f"fc_norm.{end}")
        state[f"lm_head.{end}"] = state.pop(f"head.{end}")
    state["mask_token"] = torch.ones(1, 1, 32)
    torch.save(dict(model=state), tmp_path / "x.pt")
    read = weights.read(tmp_path / "x.pt")
    assert (read.config.num_classes, read.config.head) == (0, "gap")
    assert sum("only self-supervised training" in line for line in read.report) == 2


@pytest.mark.parametrize("change", ["base", "rectangle", "block"])
def test_eva02_with_another_rotation_is_refused(change, tmp_path):
    state = eva_state(False, True)
    if change == "base":
        state["rope.freqs_sin"] = state["rope.freqs_sin"] * 0.9
    elif change == "rectangle":
        state |= {name: table[:12] for name, table in state.items() if "rope" in name}
    else:
        state["blocks.0.attn.rope.freqs_cos"] = state["rope.freqs_cos"] + 1
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"rope\.freqs_cos"):
        weights.read(tmp_path / "x.pt")

"""Files of open_clip and OpenAI: features of an independent CLIP, and the same bytes written."""

import collections
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vit_jax import weights
from vit_jax.errors import InputError

torch = pytest.importorskip("torch")
nn = torch.nn

CONFIG = dict(
    model_cfg=dict(
        embed_dim=12,
        quick_gelu=True,
        vision_cfg=dict(image_size=32, layers=2, width=32, patch_size=8, head_width=8),
        text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
    ),
    preprocess_cfg=dict(
        size=32,
        mode="RGB",
        mean=[0.48145466, 0.4578275, 0.40821073],
        std=[0.26862954, 0.26130258, 0.27577711],
        interpolation="bicubic",
        resize_mode="shortest",
        fill_color=0,
    ),
)
TEXT = {
    "positional_embedding": (77, 16),
    "text_projection": (16, 12),
    "logit_scale": (),
    "token_embedding.weight": (99, 16),
    "ln_final.weight": (16,),
    "ln_final.bias": (16,),
    "transformer.resblocks.0.ln_1.weight": (16,),
}


class QuickGelu(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.gamma * x


class Block(nn.Module):
    def __init__(self, width, heads, hidden, gelu, scaled, epsilon):
        super().__init__()
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, eps=epsilon) for _ in range(2))
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        layers = dict(c_fc=nn.Linear(width, hidden), gelu=gelu(), c_proj=nn.Linear(hidden, width))
        self.mlp = nn.Sequential(collections.OrderedDict(layers))
        self.ls_1, self.ls_2 = (Scale(width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.ls_1(self.attn(y, y, y, need_weights=False)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Tower(nn.Module):
    """CLIP's image tower: norm before the blocks, class token (or mean), projection."""

    def __init__(
        self, width=32, heads=4, depth=2, hidden=128, patch=8, side=4, features=12,
        gelu=QuickGelu, scaled=False, epsilon=1e-5, pre=True, pool="tok", norm_last=False,
    ):  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(side * side + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=epsilon) if pre else nn.Identity()
        self.transformer = nn.Module()
        blocks = [Block(width, heads, hidden, gelu, scaled, epsilon) for _ in range(depth)]
        self.transformer.resblocks = nn.ModuleList(blocks)
        self.ln_post = nn.LayerNorm(width, eps=epsilon)
        self.proj = nn.Parameter(torch.randn(width, features))
        self.side, self.pool, self.norm_last = side, pool, norm_last

    def forward(self, images):
        x = self.conv1(images)
        positions = self.positions(*x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + positions
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        if self.norm_last:
            return self.ln_post(x[:, 1:].mean(1)) @ self.proj
        x = self.ln_post(x)
        return (x[:, 0] if self.pool == "tok" else x[:, 1:].mean(1)) @ self.proj

    def positions(self, height, width):
        table = self.positional_embedding
        grid = table[1:].T.reshape(1, -1, self.side, self.side)
        size = dict(size=(height, width), mode="bicubic", antialias=True)
        grid = nn.functional.interpolate(grid, **size)
        return torch.cat([table[:1], grid.flatten(2)[0].T])


def whole(tower, text=True):
    """The state dict of a model with this image tower, as arrays."""
    arrays = {f"visual.{name}": t.numpy().copy() for name, t in tower.state_dict().items()}
    return arrays | (
        {name: np.ones(shape, np.float32) for name, shape in TEXT.items()} if text else {}
    )


def directory(path, arrays, config=CONFIG):
    path.mkdir(exist_ok=True)
    save_file(arrays, path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(json.dumps(config))
    return path


def changed(model=None, vision=None, prepared=None):
    new = json.loads(json.dumps(CONFIG))
    new["model_cfg"] |= model or {}
    new["model_cfg"]["vision_cfg"] |= vision or {}
    new["preprocess_cfg"] |= prepared or {}
    return new


def noise(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def check(path, tower, run_ours, run_torch):
    """At the native size, and at one that is not square."""
    for size in ((32, 32), (24, 48)):
        read = weights.read(path, image_size=size, resample="bicubic_antialias")
        images = noise(*size)
        expected = run_torch(tower, images).numpy()
        np.testing.assert_allclose(run_ours(read, images), expected, rtol=1e-4, atol=1e-4)


CASES = {
    "quick": ({}, {}, {}),
    "erf": (dict(gelu=nn.GELU), dict(quick_gelu=False), {}),
    "tanh": (
        dict(gelu=lambda: nn.GELU("tanh")),
        dict(quick_gelu=False),
        dict(act_kwargs=dict(approximate="tanh")),
    ),
    "scaled": (
        dict(scaled=True, epsilon=1e-3, hidden=72),
        {},
        dict(ls_init_value=1e-4, norm_kwargs=dict(eps=1e-3), mlp_ratio=2.25),
    ),
    "mean": (dict(pool="avg"), {}, dict(pool_type="avg")),
    "clipa": (
        dict(pre=False, norm_last=True),
        {},
        dict(no_ln_pre=True, pool_type="avg", final_ln_after_pool=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_features_are_those_of_clip(case, tmp_path, randomise, run_ours, run_torch):
    parts, model, vision = CASES[case]
    tower = randomise(Tower(**parts))
    path = directory(tmp_path / "x", whole(tower), changed(model, vision))
    check(path, tower, run_ours, run_torch)


@pytest.mark.parametrize("case", CASES)
def test_written_files_are_the_same(case, tmp_path, randomise):
    parts, model, vision = CASES[case]
    arrays = whole(randomise(Tower(**parts)), text=False)
    read = weights.read(directory(tmp_path / "x", arrays, changed(model, vision)))
    lines = weights.write(read, tmp_path / "y", format="open_clip")
    assert any("the image tower alone" in line for line in lines)
    written = load_file(tmp_path / "y" / "open_clip_model.safetensors")
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(written[name], array)
    again = weights.read(tmp_path / "y")
    assert (again.name, again.options, again.pp) == (read.name, read.options, read.pp)
    weights.write(again, tmp_path / "z", format="open_clip")
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        assert (tmp_path / "y" / name).read_bytes() == (tmp_path / "z" / name).read_bytes()


def test_report_accounts_for_the_text_tower(tmp_path, randomise):
    read = weights.read(directory(tmp_path / "x", whole(randomise(Tower()))))
    assert (read.config.head, read.config.projection, read.config.num_classes) == ("token", 12, 0)
    assert (read.config.norm_pre, read.config.patch_bias, read.config.norm_eps) == (
        True,
        False,
        1e-5,
    )
    assert "set aside, another network: ln_final.* (2 tensors)" in read.report
    assert "set aside, another network: token_embedding.weight" in read.report
    assert read.pp.startswith("resize_small(32, method='bicubic', antialias=True, truncate=True)")


def test_openai_file_asks_for_gelu_and_heads(tmp_path, randomise, run_ours, run_torch):
    """OpenAI's ViT-B-32.pt without its program: half precision, sizes as tensors, no JSON."""
    tower = randomise(Tower())
    state = {name: torch.from_numpy(array) for name, array in whole(tower).items()}
    sizes = dict(input_resolution=224, context_length=77, vocab_size=49408)
    state |= {name: torch.tensor(value) for name, value in sizes.items()}
    torch.save(state, tmp_path / "ViT-B-32.pt")
    for given, missing in (({}, "num_heads"), (dict(num_heads=4), "give gelu")):
        with pytest.raises(InputError, match=missing):
            weights.read(tmp_path / "ViT-B-32.pt", **given)
    read = weights.read(tmp_path / "ViT-B-32.pt", num_heads=4, gelu="quick")
    expected = run_torch(tower, noise(32, 32)).numpy()
    np.testing.assert_allclose(run_ours(read, noise(32, 32)), expected, rtol=1e-4, atol=1e-4)
    assert "set aside, another network: vocab_size" in read.report


def test_bare_tower_is_read(tmp_path, randomise):
    state = randomise(Tower()).state_dict()
    torch.save(state, tmp_path / "tower.pt")
    read = weights.read(tmp_path / "tower.pt", num_heads=4, gelu="erf")
    np.testing.assert_array_equal(read.params["projection"]["kernel"], state["proj"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    """OpenAI's ViT-B-32.pt as published is a program."""
    torch.jit.save(torch.jit.trace(nn.Linear(3, 3), torch.zeros(1, 3)), str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match="save its state_dict alone") as caught:
        weights.read(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


WRONG = {
    "unknown field": (changed(model=dict(zoom=2)), "zoom"),
    "unknown tower field": (changed(vision=dict(zoom=2)), "zoom"),
    "unknown preprocessing": (changed(prepared=dict(zoom=2)), "zoom"),
    "attention pooling": (changed(vision=dict(attentional_pool=True)), "attentional_pool"),
    "other features": (changed(model=dict(embed_dim=13)), "embed_dim"),
    "other depth": (changed(vision=dict(layers=3)), "depth"),
    "other heads": (changed(vision=dict(head_width=5)), "heads"),
    "other MLP": (changed(vision=dict(mlp_ratio=3.0)), "mlp_dim"),
    "without norm": (changed(vision=dict(no_ln_pre=True)), "no_ln_pre"),
    "LayerScale": (changed(vision=dict(ls_init_value=0.1)), "ls_init_value"),
    "norm of queries": (changed(vision=dict(qk_norm=True)), "qk_norm"),
    "ResNet": (changed(vision=dict(layers=[3, 4, 6, 3])), "ResNet"),
    "tower of timm": (changed(vision=dict(timm_model_name="vit_base")), "timm_model_name"),
    "tokens": (changed(vision=dict(pool_type="none")), "pool_type"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_networks_are_refused_by_name(case, tmp_path, randomise):
    config, name = WRONG[case]
    with pytest.raises(InputError, match=name) as caught:
        weights.read(directory(tmp_path / "x", whole(randomise(Tower())), config))
    assert "\n" not in str(caught.value)


def test_every_changed_value_is_taken_or_refused(tmp_path, randomise):
    """Only fields that say something else about the same tensors change what is computed."""
    from tests.weights.test_json import mutations, outcome, same_function

    vision = dict(ls_init_value=1e-4, no_ln_pre=False, attentional_pool=False, mlp_ratio=4.0)
    vision |= dict(norm_kwargs=dict(eps=1e-5), pool_type="tok", final_ln_after_pool=False)
    config = changed(vision=vision)
    config["model_cfg"]["text_cfg"] = {}
    path = directory(tmp_path / "x", whole(randomise(Tower(scaled=True))), config)
    right = weights.read(path)
    refused = 0
    for key, document in mutations(config):
        (path / "open_clip_config.json").write_text(json.dumps(document))
        found = outcome(path)
        refused += isinstance(found, str)
        if not isinstance(found, str) and not same_function(found, right):
            known = ("quick_gelu", "image_size", "ls_init_value", "eps", "norm_kwargs")
            known = (*known, "preprocess_cfg", "mean", "std", "interpolation", "resize_mode")
            assert set(key) & set(known), key
    assert refused > 250


def test_pooling_is_not_guessed(tmp_path, randomise):
    save_file(whole(randomise(Tower(pre=False))), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="how it pools"):
        weights.read(tmp_path / "x.safetensors", num_heads=4, gelu="erf")


def test_preprocessing_is_that_of_the_file(tmp_path, randomise):
    prepared = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", resize_mode="squash")
    path = directory(tmp_path / "x", whole(randomise(Tower())), changed(prepared=prepared))
    assert weights.read(path).pp == "resize(32, antialias=True)|value_range(-1, 1)"
    prepared = dict(resize_mode="longest", interpolation="random")
    directory(path, whole(randomise(Tower())), changed(prepared=prepared))
    notes = [line for line in weights.read(path).report if line.startswith("note: ")]
    assert len(notes) == 2


@pytest.mark.parametrize(
    "name,value", [("num_classes", 10), ("projection", 0), ("registers", 2), ("patch_bias", True)]
)
def test_what_open_clip_lacks_is_not_written(name, value, tmp_path):
    from tests.weights.test_json import small_weights

    options = dict(norm_pre=True, patch_bias=False, projection=12, num_classes=0) | {name: value}
    with pytest.raises(InputError, match=name):
        weights.write(small_weights(**options), tmp_path / "x", format="open_clip")


@pytest.mark.parametrize("projected", [True, False])
def test_tower_of_timm(projected, tmp_path, run_ours):
    """timm's test_vit, with open_clip's own projection or timm's classifier in its place."""
    from tests.weights.test_json import small_weights

    sizes = dict(width=64, depth=6, mlp_dim=192, num_heads=2, patch_size=16, image_size=160)
    plain = small_weights(**sizes, gelu="erf", num_classes=0 if projected else 12)
    weights.write(plain, tmp_path / "plain.safetensors")
    arrays = load_file(tmp_path / "plain.safetensors")
    arrays = {f"visual.trunk.{name}": array for name, array in arrays.items()}
    projection = np.random.default_rng(2).normal(size=(12, 64)).astype(np.float32)
    arrays |= {"visual.head.proj.weight": projection} if projected else {}
    arrays |= {f"text.{name}": np.ones(shape, np.float32) for name, shape in TEXT.items()}
    vision = dict(
        timm_model_name="test_vit",
        timm_model_pretrained=False,
        timm_pool="token",
        timm_proj="linear" if projected else "",
        image_size=160,
    )
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"] = dict(embed_dim=12, vision_cfg=vision, text_cfg={})
    path = directory(tmp_path / "x", arrays, config)
    read = weights.read(path)
    features = run_ours(plain, noise(160, 160))
    expected = features @ projection.T if projected else features
    np.testing.assert_allclose(run_ours(read, noise(160, 160)), expected, rtol=1e-4, atol=1e-4)
    assert any(line.startswith("set aside, another network: text.*") for line in read.report)
    vision["timm_model_name"] = "convnext_base"
    with pytest.raises(InputError, match="convnext_base"):
        weights.read(directory(path, arrays, config))
    (path / "open_clip_config.json").unlink()
    with pytest.raises(InputError, match="open_clip_config.json"):
        weights.read(path)

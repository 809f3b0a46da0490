"""Files as the authors of DINOv3, MAE, AIMv2, PE and EVA-02 published them.

DINOv3, MAE and AIMv2 are compared with transformers, which holds the same numbers under its own
names; PE and EVA-02 with an independent statement of their networks.
"""

import json
import re

import numpy as np
import pytest

from vit_jax import weights
from vit_jax.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
F = torch.nn.functional

SIZES = ((32, 32), (24, 48))
TINY = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=32,
    patch_size=8,
)


def noise(height, width):
    return np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)


def renamed(state, *renames):
    """A state dict under other names."""
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor.clone()
    return result


def saved(path, state):
    torch.save(state, path)
    return path


def joined(state, parts, whole, end):
    """Packs the tensors of several names into one."""
    for name in [name for name in state if name.endswith(f"{parts[0]}{end}")]:
        start = name.removesuffix(f"{parts[0]}{end}")
        tensors = [state.pop(f"{start}{part}{end}") for part in parts]
        state[f"{start}{whole}{end}"] = torch.cat(tensors)


DINOV3 = (
    (r"^embeddings\.register_tokens$", "storage_tokens"),
    (r"^embeddings\.patch_embeddings", "patch_embed.proj"),
    (r"^embeddings\.", ""),
    (r"^model\.layer\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
)
MLP = ((r"\.up_proj", ".fc1"), (r"\.down_proj", ".fc2"))
GATED = ((r"\.gate_proj", ".w1"), (r"\.up_proj", ".w2"), (r"\.down_proj", ".w3"))


def dinov3_state(model, gated, bias=True):
    """Meta's names: a mask over the bias of queries, keys and values, periods in bfloat16."""
    state = renamed(model.state_dict(), *DINOV3, *(GATED if gated else MLP))
    state["mask_token"] = state["mask_token"][0]
    for i in range(2):
        attention = f"blocks.{i}.attn."
        if bias:
            state[f"{attention}k_proj.bias"] = torch.full((32,), 7.0)  # what the mask removes
            mask = torch.ones(96, dtype=torch.bfloat16)
            mask[32:64] = 0
            state[f"{attention}qkv.bias_mask"] = mask
    for end in (".weight", ".bias") if bias else (".weight",):
        joined(state, ("q_proj", "k_proj", "v_proj"), "qkv", end)
    state["rope_embed.periods"] = (100 ** (torch.arange(4) / 4)).to(torch.bfloat16)
    return state


def dinov3_model(gated=False, bias=True):
    biases = dict(query_bias=bias, value_bias=bias)
    options = TINY | dict(use_gated_mlp=gated, num_register_tokens=4, **biases)
    options["hidden_act"] = "silu" if gated else "gelu"
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**options))


@pytest.mark.parametrize("gated,bias", [(False, True), (True, True), (True, False)])
def test_dinov3(gated, bias, tmp_path, randomise, run_ours, run_torch):
    model = randomise(dinov3_model(gated, bias))
    path = saved(tmp_path / "dinov3.pth", dinov3_state(model, gated, bias))
    for size in SIZES:
        read = weights.read(path, image_size=size)
        expected = run_torch(model, noise(*size)).pooler_output.numpy()
        np.testing.assert_allclose(run_ours(read, noise(*size)), expected, rtol=1e-4, atol=1e-4)
    assert read.config.qkv_bias == ("no_key" if bias else "none")
    assert (read.config.num_heads, read.config.registers) == (2, 4)
    assert read.aside.keys() == {"mask_token"}
    assert any("rope_embed.periods" in line for line in read.report)
    assert weights.read(path).pp == "resize(224, antialias=True)|normalize"


def test_dinov3_of_another_base_is_refused(tmp_path, randomise):
    state = dinov3_state(randomise(dinov3_model()), False)
    state["rope_embed.periods"] = 200 ** (torch.arange(4) / 4)
    with pytest.raises(InputError, match="rope_embed.periods"):
        weights.read(saved(tmp_path / "x.pth", state))


def test_dinov3_with_another_mask_is_refused(tmp_path, randomise):
    state = dinov3_state(randomise(dinov3_model()), False)
    state["blocks.1.attn.qkv.bias_mask"][0] = 0
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.qkv\.bias_mask"):
        weights.read(saved(tmp_path / "x.pth", state))


def test_dinov3_norm_of_local_crops(tmp_path, randomise):
    """It is left out; weights of satellite images have it and another normalisation."""
    state = dinov3_state(randomise(dinov3_model()), False)
    state |= {f"local_cls_norm.{end}": torch.ones(32) for end in ("weight", "bias")}
    report = weights.read(saved(tmp_path / "x.pth", state)).report
    assert sum("self-supervised training uses it: local_cls_norm" in line for line in report) == 2
    assert any("satellite" in line for line in report)
    satellite = weights.read(saved(tmp_path / "dinov3_vitl16_sat493m.pth", state))
    assert "mean=(0.43, 0.411, 0.296)" in satellite.pp
    state["cls_norm.weight"] = torch.ones(32)
    with pytest.raises(InputError, match="unexpected: cls_norm.weight"):
        weights.read(saved(tmp_path / "x.pth", state))


MAE = (
    (r"^vit\.", ""),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(?:encoder\.layer|layers)\.", "blocks."),
    (r"\.layernorm_before", ".norm1"),
    (r"\.layernorm_after", ".norm2"),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)", ".attn.proj"),
    (r"\.intermediate\.dense", ".mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)


def mae_state(model):
    state = renamed(model.state_dict(), *MAE)
    for parts in (("query", "key", "value"), ("q", "k", "v")):
        for end in (".weight", ".bias"):
            joined(state, parts, "qkv", end)
    return state


@pytest.mark.parametrize("decoder", [True, False])
def test_mae(decoder, tmp_path, randomise, run_ours, run_torch):
    """Stored sines and cosines count as the position embedding, whatever their values."""
    config = transformers.ViTConfig(**TINY, layer_norm_eps=1e-6)
    model = randomise(transformers.ViTModel(config, add_pooling_layer=False))
    state = mae_state(model)
    if decoder:
        state |= {"mask_token": torch.ones(1, 1, 16), "decoder_pos_embed": torch.ones(1, 17, 16)}
        state |= {"decoder_embed.weight": torch.ones(16, 32), "decoder_embed.bias": torch.ones(16)}
        state |= {"decoder_blocks.0.norm1.weight": torch.ones(16)}
    path = saved(tmp_path / "mae.pth", dict(model=state))
    for size in SIZES:
        read = weights.read(path, image_size=size, num_heads=2, resample="bicubic")
        options = dict(interpolate_pos_encoding=True)
        expected = run_torch(model, noise(*size), **options).last_hidden_state[:, 0].numpy()
        np.testing.assert_allclose(run_ours(read, noise(*size)), expected, rtol=1e-4, atol=1e-4)
    left = [line for line in read.report if "only self-supervised training" in line]
    assert len(left) == (5 if decoder else 0)
    assert not read.aside


def test_mae_fine_tuned(tmp_path, randomise, run_ours, run_torch):
    """The mean of the patches, then fc_norm, then the head."""
    config = transformers.ViTConfig(**TINY, layer_norm_eps=1e-6, num_labels=5)
    model = randomise(transformers.ViTForImageClassification(config))
    state = renamed(mae_state(model), (r"^norm\.", "fc_norm."))
    read = weights.read(saved(tmp_path / "x.pth", dict(model=state)), num_heads=2)
    with torch.no_grad():
        tokens = model.vit(
            torch.from_numpy(noise(32, 32)).permute(0, 3, 1, 2), output_hidden_states=True
        ).hidden_states[-1]
        expected = model.classifier(model.vit.layernorm(tokens[:, 1:].mean(1))).numpy()
    np.testing.assert_allclose(run_ours(read, noise(32, 32)), expected, rtol=1e-4, atol=1e-4)


AIMV2 = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.patch_embed", "preprocessor.patchifier.proj"),
    (r"^embeddings\.rms_norm", "preprocessor.patchifier.norm"),
    (r"^embeddings\.position_embedding\.weight", "preprocessor.pos_embed"),
    (r"^encoder\.layers\.", "trunk.blocks."),
    (r"\.rms_norm(\d)", r".norm_\1"),
    (r"^rms_norm", "trunk.post_trunk_norm"),
    (r"\.attention\.out_proj", ".attn.proj"),
    (r"\.attention\.", ".attn."),
    (r"\.ffn\.gate_proj", ".mlp.fc1"),
    (r"\.ffn\.up_proj", ".mlp.fc3"),
    (r"\.ffn\.down_proj", ".mlp.fc2"),
)


def aimv2_state(model):
    state = renamed(model.state_dict(), *AIMV2)
    joined(state, ("q_proj", "k_proj", "v_proj"), "qkv", ".weight")
    if "preprocessor.pos_embed" in state:
        state["preprocessor.pos_embed"] = state["preprocessor.pos_embed"][None]
    return state


@pytest.mark.parametrize("native", [False, True])
def test_aimv2(native, tmp_path, randomise, run_ours, run_torch):
    config = transformers.Aimv2VisionConfig(**TINY, use_head=False, is_native=native)
    model = randomise(transformers.Aimv2VisionModel(config))
    path = saved(tmp_path / "aimv2.pth", aimv2_state(model))
    for size in SIZES if native else SIZES[:1]:
        read = weights.read(path, num_heads=2, image_size=size)
        expected = run_torch(model, noise(*size)).last_hidden_state.mean(1).numpy()
        np.testing.assert_allclose(run_ours(read, noise(*size)), expected, rtol=1e-4, atol=1e-4)


APPLE = dict(
    model_type="aimv2",
    architectures=["AIMv2Model"],
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=32,
    patch_size=8,
    rms_norm_eps=1e-3,
    qkv_bias=False,
    use_bias=False,
)


def test_aimv2_with_json_of_apple(tmp_path, randomise, run_ours, run_torch):
    config = transformers.Aimv2VisionConfig(**TINY, use_head=False, rms_norm_eps=1e-3)
    model = randomise(transformers.Aimv2VisionModel(config))
    torch.save(aimv2_state(model), tmp_path / "pytorch_model.bin")
    prepared = dict(image_processor_type="CLIPImageProcessor", do_center_crop=True, resample=3)
    prepared |= dict(crop_size=dict(height=32, width=32), size=dict(shortest_edge=36))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prepared))
    (tmp_path / "config.json").write_text(json.dumps(APPLE))
    read = weights.read(tmp_path)
    expected = run_torch(model, noise(32, 32)).last_hidden_state.mean(1).numpy()
    np.testing.assert_allclose(run_ours(read, noise(32, 32)), expected, rtol=1e-4, atol=1e-4)
    assert read.pp.startswith("resize_small(36, method='bicubic'")
    for name, value in (("zoom", 2), ("is_native", True), ("use_bias", True), ("hidden_size", 8)):
        (tmp_path / "config.json").write_text(json.dumps(APPLE | {name: value}))
        with pytest.raises(InputError, match="width" if name == "hidden_size" else name):
            weights.read(tmp_path)


def test_other_json_is_not_read_in_silence(tmp_path, randomise):
    state = dinov3_state(randomise(dinov3_model()), False)
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert any("config.json is not read" in line for line in weights.read(tmp_path).report)


def test_layers_of_dinov3_are_all_or_none(tmp_path, randomise):
    state = dinov3_state(randomise(dinov3_model()), False)
    del state["blocks.1.attn.qkv.bias_mask"]
    with pytest.raises(InputError, match=r"blocks\.1\.attn"):
        weights.read(saved(tmp_path / "x.pth", state))

"""Files with timm's names, written here from transformers' weights by the published description."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vit_jax import weights
from vit_jax.errors import InputError
from vit_jax.models import model_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WIDTH = 48
TINY = dict(
    hidden_size=WIDTH,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=80,
    image_size=32,
    patch_size=8,
    num_labels=5,
    layer_norm_eps=1e-6,
)
# The same in timm's words.
ARGS = dict(img_size=32, patch_size=8, embed_dim=WIDTH, depth=3, num_heads=4, mlp_ratio=80 / 48)
BIT = dict(embedding_size=64, hidden_sizes=[256, 512], depths=[1, 2], num_labels=5)
RENAMES = [
    (r"^\w+\.(?=embeddings|encoder|layernorm)", ""),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^(cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
]


@pytest.fixture
def source(randomise, tmp_path):
    """(class, config class, options) -> a model of transformers and timm-named tensors."""

    def create(kind, config, options):
        config = getattr(transformers, config)(**options)
        model = randomise(getattr(transformers, kind)(config))
        model.save_pretrained(tmp_path / "source")
        return model, timm(load_file(tmp_path / "source" / "model.safetensors"))

    return create


def timm(tensors):
    """timm: queries, keys and values are one linear layer."""
    out = {}
    for name, array in tensors.items():
        if ".attention.attention." in name:
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        out[name] = array
    queries = [name for name in tensors if ".attention.attention.query." in name]
    for name in queries:
        layer = re.search(r"layer\.(\d+)", name)[1]
        parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
        out[f"blocks.{layer}.attn.qkv.{name.split('.')[-1]}"] = np.concatenate(parts)
    return out


def write(path, tensors, **config):
    path.mkdir()
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(tensors, path / "model.safetensors")
    if config:
        (path / "config.json").write_text(json.dumps(config))
    return path


def images_of(size=(32, 32)):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


def no_class_position(tensors):
    """DeiT-III, `no_embed_class`: patches alone have positions."""
    out = dict(tensors)
    out["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
    out["pos_embed"] = tensors["pos_embed"][:, 1:]
    return out


def register_positions(tensors):
    """Registers before `no_embed_class`: they have positions, which add to them."""
    positions, registers = tensors["pos_embed"], tensors["reg_token"]
    extra = np.random.default_rng(0).normal(size=registers.shape).astype(np.float32)
    out = dict(tensors, reg_token=registers - extra)
    out["pos_embed"] = np.concatenate([positions[:, :1], extra, positions[:, 1:]], axis=1)
    return out


def original_deit3(tensors):
    """The names in Meta's own files of DeiT-III."""
    return {re.sub(r"\.ls(\d)\.gamma", r".gamma_\1", k): v for k, v in tensors.items()}


def original_dinov2(tensors):
    """The names in Meta's own files of DINOv2."""
    gated = {".mlp.fc1.": ".mlp.w12.", ".mlp.fc2.": ".mlp.w3."}
    names = {"reg_token": "register_tokens"} if "reg_token" in tensors else gated
    out = {}
    for name, array in tensors.items():
        for old, new in names.items():
            name = name.replace(old, new)
        out[name] = array
    return out


VIT = ("ViTForImageClassification", "ViTConfig", TINY)
TEACHER = ("DeiTForImageClassificationWithTeacher", "DeiTConfig", TINY)
DINOV2 = ("Dinov2ForImageClassification", "Dinov2Config", dict(TINY, use_swiglu_ffn=True))
REGISTERS = (
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersConfig",
    dict(TINY, num_register_tokens=3),
)


@pytest.mark.parametrize(
    "kind,layout",
    [
        (VIT, lambda t: t),
        (VIT, no_class_position),
        (VIT, lambda t: {f"module.{k}": v for k, v in t.items()}),
        (TEACHER, lambda t: t),
        (DINOV2, lambda t: t),
        (DINOV2, lambda t: original_deit3(no_class_position(t))),
        (DINOV2, original_dinov2),
        (REGISTERS, no_class_position),
        (REGISTERS, register_positions),
        (REGISTERS, original_dinov2),
    ],
    ids=[
        "vit",
        "no_embed_class",
        "module-prefix",
        "distilled",
        "swiglu",
        "deit3-original",
        "dinov2-original",
        "registers",
        "register-positions",
        "registers-original",
    ],
)
def test_logits_are_the_torch_models(kind, layout, source, tmp_path, run_ours, run_torch):
    model, tensors = source(*kind)
    tensors = layout(tensors)
    path = write(tmp_path / "timm", tensors)
    if "blocks.0.gamma_1" in tensors:
        path = tmp_path / "deit3.pth"
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    published = weights.read(path, num_heads=4)
    expected = run_torch(model, images_of()).logits
    np.testing.assert_allclose(run_ours(published, images_of()), expected, atol=1e-4)


def test_average_pooling_before_the_norm(source, tmp_path, run_ours):
    model, tensors = source(*VIT)
    renamed = {re.sub(r"^norm\.", "fc_norm.", name): array for name, array in tensors.items()}
    published = weights.read(write(tmp_path / "timm", renamed), num_heads=4)
    config = model_config(published.name, **published.options)
    assert (config.head, config.pool_then_norm, config.class_token) == ("gap", True, True)
    with torch.no_grad():
        x = model.vit.embeddings(torch.from_numpy(images_of()).permute(0, 3, 1, 2))
        for layer in model.vit.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        expected = model.classifier(model.vit.layernorm(x[:, 1:].mean(1)))
    np.testing.assert_allclose(run_ours(published, images_of()), expected, atol=1e-4)


def bit(tensors, prefix=""):
    """resnetv2 names: stem, stages, blocks."""
    out = {}
    for name, array in tensors.items():
        name = name.removeprefix("bit.")
        name = re.sub(r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1.blocks.", name)
        name = name.replace("embedder.convolution", "stem.conv").replace("embedder.", "stem.")
        name = name.replace("classifier.1", "head.fc")
        out[prefix + name] = array[..., None, None] if name == "head.fc.weight" else array
    return out


def test_bit(source, randomise, tmp_path, run_ours, run_torch):
    model = randomise(transformers.BitForImageClassification(transformers.BitConfig(**BIT)))
    model.save_pretrained(tmp_path / "source")
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    published = weights.read(write(tmp_path / "timm", bit(tensors)))
    assert published.options["preact"]
    images = images_of((70, 64))
    expected = run_torch(model, images).logits
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)


@pytest.mark.parametrize("depths", [[1, 2], []])
def test_hybrids(depths, source, randomise, tmp_path, run_ours, run_torch):
    """The stem under patch_embed.backbone; a lone root has no `stem.` in its names."""
    stem = dict(BIT, layer_type="bottleneck", global_padding="SAME", embedding_dynamic_padding=True)
    resnet = transformers.BitModel(transformers.BitConfig(**stem))
    resnet = randomise(resnet if depths else resnet.embedder)
    channels, side = (512, 8) if depths else (64, 16)
    options = dict(TINY, num_channels=channels, patch_size=side // 8, image_size=side)
    vit, tensors = source("ViTForImageClassification", "ViTConfig", options)
    prefix = "" if depths else "embedder."
    state = {prefix + k: v.numpy() for k, v in resnet.state_dict().items()}
    stem = bit(state, "patch_embed.backbone.")
    if not depths:
        stem = {name.replace("stem.", ""): array for name, array in stem.items()}
    published = weights.read(write(tmp_path / "timm", {**tensors, **stem}), num_heads=4)
    config = model_config(published.name, **published.options)
    assert config.resnet_stages == tuple(depths)
    images = images_of((64, 64))
    features = run_torch(resnet, images)
    features = features.last_hidden_state if depths else features
    expected = run_torch(vit, features.permute(0, 2, 3, 1).contiguous().numpy()).logits
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)


def test_heads_are_asked_for_where_no_variant_tells(source, tmp_path):
    _, tensors = source(*VIT)
    with pytest.raises(InputError, match="how many attention heads it has; give num_heads"):
        weights.read(write(tmp_path / "timm", tensors))
    path = write(tmp_path / "told", tensors, architecture="vit_base_patch16_224", model_args=ARGS)
    assert weights.read(path).config.num_heads == 4


def test_preprocessing_and_labels_travel(source, tmp_path):
    _, tensors = source(*VIT)
    path = write(
        tmp_path / "timm",
        tensors,
        architecture="vit_base_patch16_224",
        model_args=ARGS,
        num_classes=5,
        label_names=list("abcde"),
        pretrained_cfg=dict(
            input_size=[3, 32, 32],
            crop_pct=0.5,
            interpolation="bilinear",
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
        ),
    )
    published = weights.read(path)
    assert published.labels == list("abcde")
    assert published.pp == (
        "resize_small(64, method='bilinear', antialias=True, truncate=True)"
        "|central_crop(32, nearest=True)|normalize"
    )
    bare = weights.read(write(tmp_path / "bare", tensors), num_heads=4)
    assert bare.pp.startswith("resize_small(36, method='bicubic'")
    assert bare.pp.endswith("|central_crop(32, nearest=True)|normalize")
    assert f"preprocessing as is usual for timm ViT: {bare.pp}" in bare.report


def test_bfloat16_is_read_as_float32(source, tmp_path):
    import ml_dtypes

    _, tensors = source(*VIT)
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    published = weights.read(write(tmp_path / "timm", half), num_heads=4)
    bias = published.params["head"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, half["head.bias"].astype(np.float32))

"""Files in Google's layout, written here from torch models by the published description."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from vit_jax import weights
from vit_jax.errors import InputError
from vit_jax.models import model_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WIDTH, DEPTH, HEADS = 48, 3, 4
VIT = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    intermediate_size=80,
    image_size=32,
    patch_size=8,
    num_labels=5,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
)


@pytest.fixture(scope="module")
def vit(randomise, tmp_path_factory):
    """A model of transformers and its tensors by the names of its file."""
    return create(randomise, tmp_path_factory, "ViTForImageClassification", "ViTConfig", VIT)


def create(randomise, tmp_path_factory, kind, config, options):
    folder = tmp_path_factory.mktemp(kind)
    config = getattr(transformers, config)(**options)
    model = randomise(getattr(transformers, kind)(config))
    model.save_pretrained(folder)
    return model, load_file(folder / "model.safetensors")


def google(tensors, prefix="vit."):
    """The layout of vision_transformer."""
    get = lambda name: tensors[prefix + name]  # noqa: E731
    embeddings = "embeddings.patch_embeddings.projection"
    out = {
        "cls": get("embeddings.cls_token"),
        "embedding/kernel": get(f"{embeddings}.weight").transpose(2, 3, 1, 0),
        "embedding/bias": get(f"{embeddings}.bias"),
        "Transformer/posembed_input/pos_embedding": get("embeddings.position_embeddings"),
        "Transformer/encoder_norm/scale": get("layernorm.weight"),
        "Transformer/encoder_norm/bias": get("layernorm.bias"),
    }
    if "classifier.weight" in tensors:
        out["head/kernel"] = tensors["classifier.weight"].T
        out["head/bias"] = tensors["classifier.bias"]
    if f"{prefix}pooler.dense.weight" in tensors:
        out["pre_logits/kernel"] = get("pooler.dense.weight").T
        out["pre_logits/bias"] = get("pooler.dense.bias")
    head_width = WIDTH // HEADS
    for i in range(DEPTH):
        layer, block = f"encoder.layer.{i}", f"Transformer/encoderblock_{i}"
        for ours, theirs in (("LayerNorm_0", "before"), ("LayerNorm_2", "after")):
            out[f"{block}/{ours}/scale"] = get(f"{layer}.layernorm_{theirs}.weight")
            out[f"{block}/{ours}/bias"] = get(f"{layer}.layernorm_{theirs}.bias")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            weight = get(f"{layer}.attention.attention.{name}.weight")
            bias = get(f"{layer}.attention.attention.{name}.bias")
            out[f"{attention}/{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, head_width)
            out[f"{attention}/{name}/bias"] = bias.reshape(HEADS, head_width)
        weight = get(f"{layer}.attention.output.dense.weight")
        out[f"{attention}/out/kernel"] = weight.T.reshape(HEADS, head_width, WIDTH)
        out[f"{attention}/out/bias"] = get(f"{layer}.attention.output.dense.bias")
        for j, theirs in enumerate(("intermediate.dense", "output.dense")):
            out[f"{block}/MlpBlock_3/Dense_{j}/kernel"] = get(f"{layer}.{theirs}.weight").T
            out[f"{block}/MlpBlock_3/Dense_{j}/bias"] = get(f"{layer}.{theirs}.bias")
    return out


def big_vision(tensors):
    """big_vision numbers sub-layers per type; the class position is added into cls."""
    renames = [
        ("LayerNorm_2", "LayerNorm_1"),
        ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"),
        ("MlpBlock_3", "MlpBlock_0"),
        ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
    ]
    out = {}
    for name, array in tensors.items():
        for old, new in renames:
            name = name.replace(old, new)
        out[name] = array
    positions = out["pos_embedding"]
    out["cls"] = out["cls"] + positions[:, :1]
    out["pos_embedding"] = positions[:, 1:]
    return out


def scanned(tensors):
    out, layers = {}, {}
    for name, array in tensors.items():
        if found := re.fullmatch(r"(Transformer/encoderblock)_(\d+)(/.*)", name):
            layers.setdefault(found[1] + found[3], []).append(array)
        else:
            out[name] = array
    return out | {name: np.stack(arrays) for name, arrays in layers.items()}


def prefixed(prefix):
    return lambda tensors: {prefix + name: array for name, array in tensors.items()}


def images_of(size=(32, 32)):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t,
        prefixed("opt/target/"),
        big_vision,
        lambda t: prefixed("params/")(big_vision(t)),
        lambda t: prefixed("params/img/")(scanned(big_vision(t))),
        lambda t: scanned(t),
    ],
    ids=["original", "opt-target", "big_vision", "params", "params-img-scanned", "scanned"],
)
def test_layouts_give_the_torch_models_logits(layout, vit, tmp_path, run_ours, run_torch):
    model, tensors = vit
    np.savez(tmp_path / "vit.npz", **layout(google(tensors)))
    published = weights.read(tmp_path / "vit.npz")
    expected = run_torch(model, images_of()).logits
    np.testing.assert_allclose(run_ours(published, images_of()), expected, atol=1e-4)


def test_pre_logits_of_the_original_files(
    randomise, tmp_path_factory, tmp_path, run_ours, run_torch
):
    model, tensors = create(randomise, tmp_path_factory, "ViTModel", "ViTConfig", VIT)
    tensors = google(tensors, prefix="")
    rng = np.random.default_rng(0)
    tensors["head/kernel"] = rng.normal(size=(WIDTH, 7)).astype(np.float32)
    tensors["head/bias"] = rng.normal(size=7).astype(np.float32)
    np.savez(tmp_path / "vit.npz", **tensors)
    hidden = run_torch(model, images_of()).pooler_output.numpy()
    published = weights.read(tmp_path / "vit.npz")
    assert published.options["pre_logits"] == WIDTH
    np.testing.assert_allclose(
        run_ours(published, images_of()),
        hidden @ tensors["head/kernel"] + tensors["head/bias"],
        atol=1e-4,
    )
    dropped = weights.read(tmp_path / "vit.npz", pre_logits=0, num_classes=3)
    assert "pre_logits" not in dropped.params
    assert dropped.params["head"]["kernel"].shape == (WIDTH, 3)
    assert "left out: pre_logits/kernel" in dropped.report


def encoded(model, images):
    """The last block's output before the norm, without position or token for a class."""
    vit = model.vit
    with torch.no_grad():
        x = vit.embeddings.patch_embeddings(torch.from_numpy(images).permute(0, 3, 1, 2))
        x = x + vit.embeddings.position_embeddings[:, 1:]
        for layer in vit.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return vit.layernorm(x)


def test_gap_and_map_heads_of_big_vision(vit, tmp_path, run_ours):
    model, tensors = vit
    images = images_of()
    x = encoded(model, images)
    gap = {name: array for name, array in big_vision(google(tensors)).items() if name != "cls"}
    np.savez(tmp_path / "gap.npz", **gap)
    with torch.no_grad():
        expected = model.classifier(x.mean(1)).numpy()
    published = weights.read(tmp_path / "gap.npz")
    assert published.options["head"] == "gap"
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)

    head, pool = map_head()
    np.savez(tmp_path / "map.npz", **gap, **{f"MAPHead_0/{k}": v for k, v in head.items()})
    with torch.no_grad():
        expected = model.classifier(pool(x)).numpy()
    published = weights.read(tmp_path / "map.npz")
    assert published.options["head"] == "map"
    np.testing.assert_allclose(run_ours(published, images), expected, atol=1e-4)


def map_head():
    """Tensors of an attention pool and the same in torch."""
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    norm = torch.nn.LayerNorm(WIDTH, eps=1e-6)
    fc1, fc2 = torch.nn.Linear(WIDTH, 80), torch.nn.Linear(80, WIDTH)
    probe = torch.randn(1, 1, WIDTH)
    torch.nn.init.normal_(attention.in_proj_bias)

    def pool(x):
        y = attention(probe.expand(len(x), -1, -1), x, x)[0]
        mlp = fc2(torch.nn.functional.gelu(fc1(norm(y)), approximate="tanh"))
        return (y + mlp)[:, 0]

    array = lambda tensor: tensor.detach().numpy()  # noqa: E731
    name = "MultiHeadDotProductAttention_0"
    out = {"probe": array(probe)}
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    for part, weight, bias in zip(("query", "key", "value"), weights, biases):
        out[f"{name}/{part}/kernel"] = array(weight).T.reshape(WIDTH, HEADS, -1)
        out[f"{name}/{part}/bias"] = array(bias).reshape(HEADS, -1)
    out[f"{name}/out/kernel"] = array(attention.out_proj.weight).T.reshape(HEADS, -1, WIDTH)
    out[f"{name}/out/bias"] = array(attention.out_proj.bias)
    out |= {"LayerNorm_0/scale": array(norm.weight), "LayerNorm_0/bias": array(norm.bias)}
    for i, layer in enumerate((fc1, fc2)):
        out[f"MlpBlock_0/Dense_{i}/kernel"] = array(layer.weight).T
        out[f"MlpBlock_0/Dense_{i}/bias"] = array(layer.bias)
    return out, pool


def test_google_defaults(vit, tmp_path):
    np.savez(tmp_path / "vit.npz", **google(vit[1]))
    published = weights.read(tmp_path / "vit.npz")
    config = model_config(published.name, **published.options)
    assert (config.gelu, config.norm_eps, config.head) == ("tanh", 1e-6, "token")
    assert (config.image_size, config.num_heads) == ((32, 32), HEADS)
    assert published.pp == "resize(32)|value_range(-1, 1)"
    assert published.labels == []
    resized = weights.read(tmp_path / "vit.npz", image_size=(48, 64))
    assert resized.pp == "resize((48, 64))|value_range(-1, 1)"
    assert resized.params["posemb"]["embedding"].shape == (1, 1 + 6 * 8, WIDTH)


def test_every_tensor_is_accounted_for(vit, tmp_path):
    tensors = google(vit[1])
    path = tmp_path / "vit.npz"
    wrong = dict(tensors, stray=np.zeros(3), **{"head/bias": np.zeros(6)})
    del wrong["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
    np.savez(path, **wrong)
    with pytest.raises(InputError) as error:
        weights.read(path)
    message = str(error.value)
    assert "missing: Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias (80,)" in message
    assert "unexpected: stray (3,)" in message
    assert "misshapen: head/bias file (6,), model (5,)" in message
    assert "3 tensors differ" in message and len(message.splitlines()) == 1
    np.savez(path, **wrong, **{f"other{i}": np.zeros(3) for i in range(100)})
    with pytest.raises(InputError, match=r"\(103 tensors differ\): .* and 100 more$"):
        weights.read(path)

    np.savez(path, **tensors, stray=np.zeros(3))
    published = weights.read(path, leave_out=["str.*"])
    assert "left out on request: stray" in published.report
    with pytest.raises(InputError, match="nothing to leave out is named 'x'"):
        weights.read(path, leave_out=["x"])


def test_a_shorter_network_is_no_surprise_but_a_gap_is(vit, tmp_path):
    tensors = google(vit[1])
    cut = {name: array for name, array in tensors.items() if "encoderblock_1/" not in name}
    np.savez(tmp_path / "cut.npz", **cut)
    with pytest.raises(InputError, match="unexpected: Transformer/encoderblock_2/"):
        weights.read(tmp_path / "cut.npz")


def test_what_the_file_does_not_tell_is_asked_for(vit, tmp_path):
    tensors = {k: v for k, v in big_vision(google(vit[1])).items() if k not in ("cls",)}
    positions = tensors.pop("pos_embedding")
    path = tmp_path / "gap.npz"
    np.savez(path, **tensors)
    with pytest.raises(InputError, match="no position embedding: give posemb"):
        weights.read(path)
    with pytest.raises(InputError, match="give image_size"):
        weights.read(path, posemb="none")
    published = weights.read(path, posemb="none", image_size=40)
    assert model_config(published.name, **published.options).grid == (5, 5)

    np.savez(path, **tensors, pos_embedding=positions[:, :15])
    with pytest.raises(InputError, match="15 positions make no square; give the image_size"):
        weights.read(path)
    published = weights.read(path, image_size=(24, 40))
    assert model_config(published.name, **published.options).grid == (3, 5)


def test_options_that_contradict_the_file_are_refused(vit, tmp_path):
    np.savez(tmp_path / "vit.npz", **google(vit[1]))
    with pytest.raises(InputError, match="num_heads is 4 in the weights, 3 in the model;.*qkv"):
        weights.read(tmp_path / "vit.npz", num_heads=3)
    with pytest.raises(InputError, match="did you mean 'num_heads'"):
        weights.read(tmp_path / "vit.npz", num_head=3)


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("x.npz", b"not a zip file", "x.npz"),
        ("x.safetensors", b"short", "x.safetensors"),
        ("x.txt", b"", "known endings: .npz"),
    ],
)
def test_damaged_files_are_one_clear_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        weights.read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_unknown_names_and_missing_paths(tmp_path):
    np.savez(tmp_path / "x.npz", foo=np.zeros(2))
    with pytest.raises(InputError, match="no known family; they are foo"):
        weights.read(tmp_path / "x.npz")
    with pytest.raises(InputError, match="does not exist"):
        weights.read(tmp_path / "no.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no weight file"):
        weights.read(tmp_path / "empty")


def test_a_real_variant_is_named(tmp_path):
    """ViT-Ti/16's shapes, as float16: read as float32, named, nothing asked for."""
    config = model_config("ViT-Ti/16", num_classes=21843)
    tensors = {}
    for i in range(12):
        for name, shape in {
            "LayerNorm_0/scale": (192,),
            "LayerNorm_0/bias": (192,),
            "LayerNorm_2/scale": (192,),
            "LayerNorm_2/bias": (192,),
            **{
                f"MultiHeadDotProductAttention_1/{part}/{kind}": shape
                for part in ("query", "key", "value")
                for kind, shape in (("kernel", (192, 3, 64)), ("bias", (3, 64)))
            },
            "MultiHeadDotProductAttention_1/out/kernel": (3, 64, 192),
            "MultiHeadDotProductAttention_1/out/bias": (192,),
            "MlpBlock_3/Dense_0/kernel": (192, 768),
            "MlpBlock_3/Dense_0/bias": (768,),
            "MlpBlock_3/Dense_1/kernel": (768, 192),
            "MlpBlock_3/Dense_1/bias": (192,),
        }.items():
            tensors[f"Transformer/encoderblock_{i}/{name}"] = np.full(shape, i, np.float16)
    tensors |= {
        "cls": np.zeros((1, 1, 192)),
        "embedding/kernel": np.zeros((16, 16, 3, 192)),
        "embedding/bias": np.zeros(192),
        "Transformer/posembed_input/pos_embedding": np.zeros((1, 197, 192)),
        "Transformer/encoder_norm/scale": np.zeros(192),
        "Transformer/encoder_norm/bias": np.zeros(192),
        "head/kernel": np.zeros((192, 21843), np.float16),
        "head/bias": np.zeros(21843, np.float16),
    }
    np.savez(tmp_path / "Ti_16.npz", **tensors)
    published = weights.read(tmp_path / "Ti_16.npz")
    assert published.name == "ViT-Ti/16"
    assert model_config(published.name, **published.options) == config
    assert {leaf.dtype for leaf in jax.tree.leaves(published.params)} == {np.dtype(np.float32)}
    layers = published.params["blocks"]["mlp"]["fc1"]["bias"][:, 0]
    np.testing.assert_array_equal(layers, np.arange(12))
    json.dumps(published.options)

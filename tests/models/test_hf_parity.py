"""The same weights in Hugging Face transformers: the same outputs and gradients in float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vit_jax.models import abstract, build_model, merge, model_config, split
from vit_jax.models.heads import AttentionPool

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

# Neither the image nor the patch is square, and the last column of pixels is cut off.
SMALL = dict(
    width=24,
    depth=3,
    mlp_dim=96,
    num_heads=3,
    patch_size=(4, 6),
    image_size=(12, 31),
    num_classes=7,
    gelu="erf",
    norm_eps=1e-3,
)
REAL = dict(num_classes=10, gelu="erf")  # ViT-Ti/16 at 224 pixels
TOLERANCE = 1e-4


def torch_model(kind, config, **options):
    """A transformers model of the same shape, its parameters drawn so that all of them matter."""
    settings = kind.config_class(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_dim,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act="gelu",
        layer_norm_eps=config.norm_eps,
        num_labels=config.num_classes,
        attn_implementation="eager",
        **options,
    )
    return randomise(kind(settings))


def randomise(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            matrix = parameter.ndim in (2, 4)
            scale = parameter[0].numel() ** -0.5 if matrix else 0.2
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 1 and "bias" not in name:
                parameter.add_(1.0)  # scales of norms and residual branches
    return module.eval()


def plain_names(named):
    """NumPy arrays under one spelling of the names, whichever model they come from."""
    rules = [
        (r"^(vit|ijepa|dinov2_with_registers)\.", ""),
        (r"^encoder\.layer\.", "layers."),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
    ]
    result = {}
    for name, tensor in named:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        if tensor is not None:
            result[name] = tensor.detach().numpy()
    return result


def from_torch(named, config):
    """Torch's names and layouts -> ours; the same for parameters and for their gradients."""
    named = plain_names(named)
    blocks = [_block(named, f"layers.{i}.", config) for i in range(config.depth)]
    projection = named["embeddings.patch_embeddings.projection.weight"]
    tree = {
        "embedding": {
            "kernel": projection.transpose(2, 3, 1, 0),
            "bias": named["embeddings.patch_embeddings.projection.bias"],
        },
        "posemb": {"embedding": named["embeddings.position_embeddings"]},
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
        "norm": _norm(named, "layernorm"),
        "head": _linear(named, "classifier"),
    }
    for ours, theirs in [("cls", "cls_token"), ("registers", "register_tokens")]:
        if f"embeddings.{theirs}" in named:
            tree[ours] = named[f"embeddings.{theirs}"]
    return tree


def _block(named, prefix, config):
    heads = config.num_heads, config.width // config.num_heads
    linear = {p: _linear(named, f"{prefix}attention.{p}_proj") for p in "qkvo"}
    qkv = [linear[p] for p in "qkv"]
    tree = {
        "norm1": _norm(named, f"{prefix}norm1"),
        "attention": {
            "qkv": {
                "kernel": np.stack([p["kernel"].reshape(-1, *heads) for p in qkv], axis=1),
                "bias": np.stack([p["bias"].reshape(heads) for p in qkv]),
            },
            "out": {
                "kernel": linear["o"]["kernel"].reshape(*heads, -1),
                "bias": linear["o"]["bias"],
            },
        },
        "norm2": _norm(named, f"{prefix}norm2"),
        "mlp": {layer: _linear(named, f"{prefix}mlp.{layer}") for layer in ("fc1", "fc2")},
    }
    for i in (1, 2):
        if config.layer_scale is not None:
            tree[f"scale{i}"] = named[f"{prefix}layer_scale{i}.lambda1"]
    return tree


def _linear(named, name):
    return {"kernel": named[f"{name}.weight"].T, "bias": named[f"{name}.bias"]}


def _norm(named, name):
    return {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}


def our_model(params, **options):
    config = model_config("ViT-Ti/16", **options)
    graphdef, shapes = abstract(lambda rngs: build_model(config, rngs))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    return graphdef, jax.tree.map(jnp.asarray, params)


def run(graphdef, params, x, **options):
    return jax.jit(lambda params, x: merge(graphdef, params)(x, **options))(params, x)


def random_batch(config, size=2):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, *config.image_size, 3)).astype(np.float32)
    return images, rng.integers(0, config.num_classes, size)


def to_torch(images):
    return torch.tensor(images).permute(0, 3, 1, 2)


def assert_close(actual, expected, name):
    """Within the tolerance by norm and by largest element, relative to the tensor's own."""
    difference = np.asarray(actual, np.float64) - expected
    for order in (2, np.inf):
        size = np.linalg.norm(np.ravel(expected), order)
        assert size > 0, name
        assert np.linalg.norm(difference.ravel(), order) <= TOLERANCE * size, (name, order)


def assert_trees_close(actual, expected):
    """Every parameter of every layer; q, k and v count as one: the gradient of k's bias is 0."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected)):
        name = jax.tree_util.keystr(path)
        if "blocks" in name:
            for layer in range(len(b)):
                assert_close(a[layer], b[layer], f"{name} of layer {layer}")
        else:
            assert_close(a, b, name)


@pytest.mark.parametrize("options", [SMALL, REAL], ids=["small, non-square", "Ti/16"])
def test_logits_and_gradients_equal_those_of_transformers(options):
    config = model_config("ViT-Ti/16", **options)
    images, labels = random_batch(config)
    theirs = torch_model(transformers.ViTForImageClassification, config)
    graphdef, params = our_model(from_torch(theirs.named_parameters(), config), **options)

    expected = theirs(to_torch(images)).logits
    torch.nn.functional.cross_entropy(expected, torch.tensor(labels)).backward()
    gradients = from_torch([(n, p.grad) for n, p in theirs.named_parameters()], config)

    def loss(params):
        logits = merge(graphdef, params)(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    actual, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert_close(logits, expected.detach().numpy(), "logits")
    assert_trees_close(actual, gradients)


def test_intermediates_equal_those_of_transformers():
    config = model_config("ViT-Ti/16", **SMALL)
    images, _ = random_batch(config)
    theirs = torch_model(transformers.ViTForImageClassification, config)
    graphdef, params = our_model(from_torch(theirs.named_parameters(), config), **SMALL)
    with torch.no_grad():
        expected = theirs(to_torch(images), output_hidden_states=True, output_attentions=True)
        encoded = theirs.vit(to_torch(images)).last_hidden_state
    _, actual = run(graphdef, params, images, return_intermediates=True)
    embedding, *outputs = expected.hidden_states
    assert_close(actual["embedding"], embedding.numpy(), "embedding")
    assert_close(actual["encoded"], encoded.numpy(), "encoded")
    for i in range(config.depth):
        assert_close(actual[f"block{i:02}/output"], outputs[i].numpy(), f"output {i}")
        assert_close(actual[f"block{i:02}/attention"], expected.attentions[i].numpy(), f"w {i}")


def test_registers_and_layer_scale_equal_dinov2():
    # DINOv2 interpolates the position embedding unless the image is square and as trained.
    options = SMALL | dict(image_size=24, patch_size=6, registers=4, layer_scale=0.1)
    config = model_config("ViT-Ti/16", **options)
    images, _ = random_batch(config)
    kind = transformers.Dinov2WithRegistersForImageClassification
    theirs = torch_model(kind, config, num_register_tokens=config.registers, mlp_ratio=4)
    params = from_torch(theirs.named_parameters(), config)
    del params["head"]  # theirs sees the class token and the mean of the patches
    graphdef, params = our_model(params, **options | dict(num_classes=0))
    with torch.no_grad():
        expected = theirs.dinov2_with_registers(to_torch(images)).last_hidden_state
    features, actual = run(graphdef, params, images, return_intermediates=True)
    assert_close(actual["encoded"], expected.numpy(), "encoded")
    assert_close(features, expected[:, 0].numpy(), "class token")


def test_global_average_pooling_equals_ijepa():
    options = SMALL | dict(head="gap")
    config = model_config("ViT-Ti/16", **options)
    images, _ = random_batch(config)
    theirs = torch_model(transformers.IJepaForImageClassification, config)
    graphdef, params = our_model(from_torch(theirs.named_parameters(), config), **options)
    with torch.no_grad():
        expected = theirs(to_torch(images)).logits
    assert_close(run(graphdef, params, images), expected.numpy(), "logits")


def test_attention_pooling_equals_siglip():
    width, heads, mlp_dim = 24, 3, 40
    settings = transformers.SiglipVisionConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=mlp_dim,
        hidden_act="gelu",
        layer_norm_eps=1e-3,
    )
    kind = transformers.models.siglip.modeling_siglip.SiglipMultiheadAttentionPoolingHead
    theirs = randomise(kind(settings))
    named = {name: value.detach().numpy() for name, value in theirs.named_parameters()}
    shape = (width, 3, heads, width // heads)
    kernel = named["attention.in_proj_weight"].T.reshape(shape)
    bias = named["attention.in_proj_bias"].reshape(shape[1:])
    out = _linear(named, "attention.out_proj")
    params = {
        "probe": named["probe"],
        "query": {"kernel": kernel[:, 0], "bias": bias[0]},
        "key_value": {"kernel": kernel[:, 1:], "bias": bias[1:]},
        "out": {"kernel": out["kernel"].reshape(*shape[2:], width), "bias": out["bias"]},
        "norm": _norm(named, "layernorm"),
        "mlp": {layer: _linear(named, f"mlp.{layer}") for layer in ("fc1", "fc2")},
    }

    def create():
        return AttentionPool(width, heads, mlp_dim, rngs=nnx.Rngs(0), gelu="erf", norm_eps=1e-3)

    graphdef, shapes = split(nnx.eval_shape(create))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    tokens = np.random.default_rng(0).normal(size=(2, 9, width)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).numpy()
    assert_close(run(graphdef, params, tokens), expected, "pooled")

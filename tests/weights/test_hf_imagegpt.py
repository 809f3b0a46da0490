"""ImageGPT of transformers: the same hidden states, logits and features; every tensor is used."""

import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.errors import InputError
from vit_jax.models.pixels.embedding import Pixels
from vit_jax.weights import read, write

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

COLORS, SIDE, TOLERANCE = 9, 4, 1e-4
CLASSES = {
    "model": "ImageGPTModel",
    "colors": "ImageGPTForCausalImageModeling",
    "classes": "ImageGPTForImageClassification",
}


def reference(kind="colors", **options):
    """A small model of transformers whose parameters all matter."""
    settings = dict(n_embd=24, n_layer=3, n_head=3, n_inner=40, vocab_size=COLORS + 1)
    settings |= dict(n_positions=SIDE**2, num_labels=5, layer_norm_epsilon=1e-3)
    config = transformers.ImageGPTConfig(**settings | options)
    model = getattr(transformers, CLASSES[kind])(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if "ln_" in name:
                parameter.add_(1.0)
    return model.eval()


def palette():
    return np.random.default_rng(3).uniform(-1, 1, (COLORS, 3)).round(4)


def saved(model, folder, **processor):
    """The directory as transformers writes it, with the processor's file."""
    model.save_pretrained(folder)
    document = dict(
        image_processor_type="ImageGPTImageProcessor",
        size=dict(height=SIDE, width=SIDE),
        clusters=palette().tolist(),
        do_normalize=True,
        resample=2,
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(document | processor))
    return folder


def pixels(batch=2):
    return np.random.default_rng(1).integers(0, COLORS, (batch, SIDE**2))


def outputs(model, tokens):
    """What transformers computes for images: the start token first, without the last pixel."""
    start = np.full((len(tokens), 1), COLORS)
    ids = torch.tensor(np.concatenate([start, tokens[:, :-1]], 1))
    with torch.no_grad():
        return model(ids, output_hidden_states=True, use_cache=False)


def features(model, states):
    """The probe's features (L + 1, B, D): the mean over tokens of each layer's norm."""
    blocks = getattr(model, "transformer", model).h
    with torch.no_grad():
        normed = [block.ln_1(state) for block, state in zip(blocks, states)]
    return np.stack([x.numpy().mean(1) for x in (*normed, states[-1])])  # the last is normed


@pytest.mark.parametrize("kind", CLASSES)
def test_hidden_states_logits_and_features_are_those_of_transformers(kind, tmp_path):
    theirs = reference(kind)
    model, _ = vit_jax.load(saved(theirs, tmp_path / "hf"))
    tokens = pixels()
    expected = outputs(theirs, tokens)
    own = Pixels(jnp.asarray(tokens, jnp.int32))
    got, out = model(own, return_intermediates=True)
    states = [out["embedding"], *(out[f"block{i:02}/output"] for i in range(3))]
    for i, state in enumerate(expected.hidden_states[:-1]):
        np.testing.assert_allclose(states[i], state.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(out["encoded"], expected.hidden_states[-1].numpy(), atol=TOLERANCE)
    if kind == "classes":
        np.testing.assert_allclose(got, expected.logits.numpy(), atol=TOLERANCE)
    if kind == "colors":
        colors = model.predictions(own)[1]
        np.testing.assert_allclose(colors, expected.logits.numpy(), atol=TOLERANCE)
    layers = features(theirs, expected.hidden_states)
    found = np.asarray(model.layer_features(own))
    np.testing.assert_allclose(found.swapaxes(0, 1), layers, atol=TOLERANCE)


def test_gradients_are_those_of_transformers(tmp_path):
    theirs = reference("colors")
    model, _ = vit_jax.load(saved(theirs, tmp_path / "hf"))
    tokens = pixels()
    start = np.full((len(tokens), 1), COLORS)
    ids = torch.tensor(np.concatenate([start, tokens[:, :-1]], 1))
    logits = theirs(ids, use_cache=False).logits
    torch.nn.functional.cross_entropy(
        logits.reshape(-1, COLORS), torch.tensor(tokens).reshape(-1)
    ).backward()
    graphdef, params = vit_jax.models.split(model)

    def loss(params):
        own = Pixels(jnp.asarray(tokens, jnp.int32))
        log_p = jax.nn.log_softmax(vit_jax.models.merge(graphdef, params).predictions(own)[1])
        return -jnp.take_along_axis(log_p, own.tokens[..., None], -1).mean()

    grads = jax.grad(loss)(params)
    named = dict(theirs.named_parameters())
    table = named["transformer.wte.weight"].grad.numpy()
    np.testing.assert_allclose(grads["embedding"]["table"], table[:-1], atol=1e-5)
    np.testing.assert_allclose(grads["embedding"]["start"], table[-1], atol=1e-5)
    assert np.abs(table[-1]).max() > 1e-3
    for i in range(3):
        grad = named[f"transformer.h.{i}.attn.c_attn.weight"].grad.numpy()
        own = np.asarray(grads["blocks"]["attention"]["qkv"]["kernel"][i]).reshape(24, 72)
        np.testing.assert_allclose(own, grad, atol=1e-5)
    assert not np.any(grads["embedding"]["palette"])


def test_images_are_reduced_as_the_processor_does(tmp_path):
    from PIL import Image

    folder = saved(reference(), tmp_path / "hf")
    model, info = vit_jax.load(folder)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    processor = transformers.models.imagegpt.image_processing_pil_imagegpt.ImageGPTImageProcessorPil
    expected = processor.from_pretrained(folder)(Image.fromarray(image)).input_ids[0]
    normalised = jnp.asarray(image[None], jnp.float32) / 127.5 - 1
    np.testing.assert_array_equal(model.embedding.tokens(normalised)[0], expected)
    assert info.pp == "resize(4, antialias=True)|value_range(-1, 1)"


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_written_is_read_by_transformers(kind, tmp_path):
    theirs = reference(kind)
    weights = read(saved(theirs, tmp_path / "hf"))
    write(weights, tmp_path / "own", format="huggingface")
    again, report = getattr(transformers, CLASSES[kind]).from_pretrained(
        tmp_path / "own", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = pixels()
    before, after = (outputs(model, tokens) for model in (theirs, again.eval()))
    np.testing.assert_allclose(before.hidden_states[-1], after.hidden_states[-1], atol=1e-6)
    second = read(tmp_path / "own")
    assert second.config == weights.config
    np.testing.assert_array_equal(second.params["embedding"]["palette"], palette().astype("f4"))


def test_published_models_without_biases_are_written_with_zeros(tmp_path):
    options = dict(width=24, depth=2, mlp_dim=40, num_heads=3, image_size=SIDE, palette=COLORS)
    model = vit_jax.create_model("iGPT-S", **options, num_classes=0)
    params = jax.tree.map(np.asarray, vit_jax.models.split(model)[1])
    weights = vit_jax.weights.Weights(
        name="iGPT-S", options=options | dict(num_classes=0), params=params,
        pp="resize(4)|value_range(-1, 1)",
    )  # fmt: skip
    write(weights, tmp_path / "own", format="huggingface")
    theirs = transformers.ImageGPTForCausalImageModeling.from_pretrained(tmp_path / "own").eval()
    tokens = pixels()
    own = model.predictions(Pixels(jnp.asarray(tokens, jnp.int32)))[1]
    np.testing.assert_allclose(own, outputs(theirs, tokens).logits.numpy(), atol=TOLERANCE)
    assert not np.any(theirs.transformer.h[0].attn.c_attn.bias.detach().numpy())


def test_the_causal_mask_of_earlier_versions_is_left_out(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = saved(reference(), tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    for i in range(3):
        tensors[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, SIDE**2, SIDE**2)
        tensors[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors", metadata=dict(format="pt"))
    report = read(folder).report
    assert "left out, no weights but constants: transformer.* (6 tensors)" in report


def test_a_pickle_of_the_hub_is_read(tmp_path):
    """openai/imagegpt-* hold pytorch_model.bin."""
    theirs = reference()
    folder = saved(theirs, tmp_path / "hf")
    before = read(folder)
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    after = read(folder)
    assert after.config == before.config
    for x, y in zip(*(jax.tree.leaves(weights.params) for weights in (before, after))):
        np.testing.assert_array_equal(x, y)


def test_weights_are_written_as_npz_and_read_again(tmp_path):
    weights = read(saved(reference(), tmp_path / "hf"))
    write(weights, tmp_path / "own.npz")
    again = read(tmp_path / "own.npz")
    assert again.config == weights.config and again.pp == weights.pp
    for x, y in zip(*(jax.tree.leaves(each.params) for each in (weights, again))):
        np.testing.assert_array_equal(x, y)


def test_an_exported_program_computes_the_same_logits(tmp_path):
    weights = read(saved(reference("classes"), tmp_path / "hf"))
    write(weights, tmp_path / "model.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    model, _ = vit_jax.load(str(tmp_path / "hf"))
    expected = model(jnp.asarray(images, jnp.float32) / 127.5 - 1)
    np.testing.assert_allclose(program.call(images), expected, atol=TOLERANCE)


def test_other_formats_refuse_it(tmp_path):
    weights = read(saved(reference(), tmp_path / "hf"))
    for name in ("timm.safetensors", "open_clip"):
        with pytest.raises(InputError, match="write .npz"):
            write(weights, tmp_path / name, format=name.partition(".")[0])


@pytest.mark.parametrize(
    ("document", "changes", "message"),
    [
        (
            "preprocessor_config.json",
            dict(clusters=palette()[:-1].tolist()),
            "clusters has",
        ),
        ("preprocessor_config.json", dict(clusters=None), "has no clusters, the 9 colours"),
        ("preprocessor_config.json", dict(clusters=[["a"]]), "no table of numbers"),
        ("preprocessor_config.json", dict(image_mean=[0.4] * 3), "image_mean"),
        ("config.json", dict(vocab_size=513), "vocab_size is 513; the tensors have 10 rows"),
        ("config.json", dict(n_positions=1024), "n_positions is 1024; the tensors have 16 rows"),
        ("config.json", dict(n_head=5), "24"),
        ("config.json", dict(scale_attn_by_inverse_layer_idx=True), "it is not supported"),
        ("config.json", dict(n_embd=32), "config.json says width 32, the tensors 24"),
    ],
)
def test_files_that_do_not_fit_are_refused(document, changes, message, tmp_path):
    folder = saved(reference(), tmp_path / "hf")
    path = folder / document
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_positions_that_make_no_square_are_refused(tmp_path):
    folder = saved(reference(n_positions=15), tmp_path / "hf", size=None)
    with pytest.raises(InputError, match="15 positions make no square"):
        read(folder)

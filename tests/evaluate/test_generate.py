"""Pixels drawn one after the other: as transformers does, with the model's probabilities."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.evaluate.generate import generate
from vit_jax.models import merge, split
from vit_jax.models.pixels.embedding import Pixels
from vit_jax.models.pixels.generate import complete
from vit_jax.weights import Weights, read, write

COLORS, SIDE = 5, 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model whose parameters all matter, in a directory of transformers and as .npz."""
    options = dict(width=16, depth=2, mlp_dim=32, num_heads=2, image_size=SIDE, palette=COLORS)
    options |= dict(num_classes=0)
    model = vit_jax.create_model("iGPT-S", **options)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x + rng.normal(0, 0.3, x.shape), np.float32), split(model)[1]
    )
    params["embedding"]["palette"] = np.linspace(-1, 1, COLORS)[:, None].repeat(3, 1)
    params["embedding"]["palette"] = params["embedding"]["palette"].astype(np.float32)
    folder = tmp_path_factory.mktemp("weights")
    pp = f"resize({SIDE}, antialias=True)|value_range(-1, 1)"
    record = Weights(name="iGPT-S", options=options, params=params, pp=pp)
    write(record, folder / "hf", format="huggingface")
    write(record, folder / "own.npz")
    return folder


def drawn(model, tokens, keep, **options):
    graphdef, params = split(model)

    @jax.jit
    def run(params, tokens, key):
        return complete(merge(graphdef, params), tokens, keep, key, **options)

    return np.asarray(run(params, jnp.asarray(tokens, jnp.int32), jax.random.key(0)))


@pytest.mark.parametrize("cache", [True, False])
def test_the_most_probable_pixels_are_those_of_transformers(cache, weights):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    theirs = transformers.ImageGPTForCausalImageModeling.from_pretrained(weights / "hf").eval()
    model, _ = vit_jax.load(str(weights / "hf"))
    tokens = np.random.default_rng(1).integers(0, COLORS, (3, SIDE**2))
    found = drawn(model, tokens, 6, temperature=0.0, cache=cache)
    np.testing.assert_array_equal(found[:, :6], tokens[:, :6])
    ids = torch.tensor(np.concatenate([np.full((3, 1), COLORS), tokens[:, :6]], 1))
    for _ in range(6, SIDE**2):
        with torch.no_grad():
            chosen = theirs(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, chosen], 1)
    np.testing.assert_array_equal(found, ids[:, 1:].numpy())
    assert len(np.unique(found[:, 6:])) > 1


def test_models_with_other_parts_are_drawn_from_without_a_cache(weights):
    """Rotary embeddings, say: the same pixels whether a cache is asked for or not."""
    options = dict(width=16, depth=1, mlp_dim=32, num_heads=2, image_size=SIDE, palette=COLORS)
    model = vit_jax.create_model("iGPT-S", **options, num_classes=0, rotary="indexed")
    model.color_head.kernel[...] = jax.random.normal(jax.random.key(1), (16, COLORS))
    tokens = np.zeros((1, SIDE**2), np.int32)
    found = [drawn(model, tokens, 0, cache=cache) for cache in (True, False)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("top_k", [0, 2])
def test_colours_are_drawn_with_the_probabilities_of_the_model(top_k, weights):
    model, _ = vit_jax.load(str(weights / "own.npz"))
    count, temperature = 4000, 0.7
    tokens = np.tile(np.random.default_rng(2).integers(0, COLORS, SIDE**2), (count, 1))
    found = drawn(model, tokens, SIDE**2 - 1, temperature=temperature, top_k=top_k)[:, -1]
    logits = model.predictions(Pixels(jnp.asarray(tokens[:1], jnp.int32)))[1][0, -1]
    p = np.exp(np.asarray(logits, np.float64) / temperature)
    if top_k:
        p[np.argsort(p)[:-top_k]] = 0
    p /= p.sum()
    shares = np.bincount(found, minlength=COLORS) / count
    np.testing.assert_allclose(shares, p, atol=4 * (0.25 / count) ** 0.5)
    assert not shares[p == 0].any()


def test_the_kept_rows_of_an_image_are_its_own_in_the_colours_of_the_model(weights, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (sheet,) = generate(str(weights / "hf"), [str(tmp_path / "image.png")], samples=3, seed=1)
    assert sheet.shape == (4, SIDE, SIDE, 3) and sheet.dtype == np.uint8
    greys = np.array([0, 64, 128, 191, 255])  # of the palette, from -1 to 1
    nearest = np.square(pixels[:, :, None] - greys[:, None].astype(float)).sum(-1).argmin(-1)
    np.testing.assert_array_equal(sheet[0], greys[nearest][..., None].repeat(3, -1))
    np.testing.assert_array_equal(sheet[1:, :2], sheet[:1, :2].repeat(3, 0))
    assert (sheet[1:, 2:] != sheet[:1, 2:]).any()
    again = generate(str(weights / "own.npz"), [str(tmp_path / "image.png")], samples=3, seed=1)
    np.testing.assert_array_equal(again[0], sheet)


def test_the_command_writes_sheets_that_pillow_reads(weights, tmp_path, capsys):
    Image.new("RGB", (9, 9), (250, 5, 5)).save(tmp_path / "a.png")
    words = ["generate", f"--checkpoint={weights / 'own.npz'}", "--samples=2", "--json"]
    assert main([*words, str(tmp_path / "a.png"), f"--output={tmp_path / 'out'}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    sheet = np.asarray(Image.open(row["file"]))
    assert sheet.shape == (4 * (SIDE + 2), 3 * 4 * (SIDE + 2), 3)
    assert (sheet[0] == 255).all() and row["image"].endswith("a.png")
    (first, *_) = generate(str(weights / "own.npz"), [row["image"]], samples=2)
    np.testing.assert_array_equal(sheet[4:20:4, 4:20:4], first[0])
    assert main([*words, f"--output={tmp_path / 'out'}"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["image"] is None and row["file"].endswith("drawn.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(samples=0), "samples is 0"),
        (dict(keep=1.5), "keep is 1.5"),
        (dict(temperature=-1.0), "temperature is -1.0"),
        (dict(top_k=6), "top_k is 6, the model has 5 colours"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message, weights):
    with pytest.raises(InputError, match=message):
        generate(str(weights / "own.npz"), **options)


def test_what_draws_no_pixels_is_refused(weights, tmp_path):
    record = read(weights / "own.npz")
    params = {name: part for name, part in record.params.items() if name != "color_head"}
    options = record.options | dict(color_head=False)
    other = Weights(name=record.name, options=options, params=params, pp=record.pp)
    write(other, tmp_path / "other.npz")
    with pytest.raises(InputError, match="draws no pixels"):
        generate(str(tmp_path / "other.npz"))
    options = record.options | dict(attention_kind="full")
    write(dataclasses.replace(record, options=options), tmp_path / "full.npz")
    with pytest.raises(InputError, match="sees all pixels at once"):
        generate(str(tmp_path / "full.npz"))

"""iGPT's objectives: what is predicted from what, every engine and layout, and runs with them."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_jax import config as configs
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.models import flops, model_config
from vit_jax.models.pixels.embedding import Pixels, nearest_colors
from vit_jax.parallel.pjit import PjitEngine
from vit_jax.speed.benchmark import run_config
from vit_jax.tasks.pixels import color_rows, hide
from vit_jax.train.run import Dataset, prepare

BATCH, SIDE, COLORS = 16, 6, 7
DATASET = Dataset(64, 10, (SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)
SMALL = dict(name="iGPT-S", width=128, depth=2, mlp_dim=256, num_heads=4, palette=COLORS)


def pixel_config(task="pixels", **options):
    config = configs.default()
    config.task = task
    config.model.update(SMALL)
    config.batch_size = BATCH
    config.total.steps = 10
    config.optimizer.update(name="sgd", learning_rate=0.1, weight_decay=0.1)
    config.update_from_flattened_dict(options)
    return config


def one_device(**options):
    config = pixel_config(**options)
    return prepare(config, DATASET, PjitEngine(config.parallel, jax.devices()[:1]))


@functools.cache
def batches(count=3):
    rng = np.random.default_rng(0)
    return [
        dict(
            image=rng.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8),
            label=rng.integers(0, 10, BATCH, dtype=np.int32),
        )
        for _ in range(count)
    ]


def moved(params):
    """Parameters of which all matter: the colour head begins at zero."""
    return jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)


def test_colours_are_the_nearest_ones():
    rng = np.random.default_rng(0)
    images, palette = rng.uniform(-1, 1, (2, 5, 4, 3)), rng.uniform(-1, 1, (9, 3))
    distances = np.square(images.reshape(2, 20, 1, 3) - palette).sum(-1)
    found = nearest_colors(jnp.asarray(images), jnp.asarray(palette))
    np.testing.assert_array_equal(found, distances.argmin(-1))


def test_metrics_are_those_of_optax_over_the_hidden_pixels():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 8, COLORS)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, COLORS, (3, 8)))
    hidden = jnp.asarray(rng.random((3, 8)) < 0.4).at[:, 0].set(True)
    each = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, tokens))
    found = color_rows(logits, Pixels(tokens, hidden))
    expected = [row[mask].mean() for row, mask in zip(each, np.asarray(hidden))]
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_dim"], np.array(expected) / math.log(8), rtol=1e-5)
    whole = color_rows(logits, Pixels(tokens))
    np.testing.assert_allclose(whole["loss"], each.mean(1), rtol=1e-5)


def test_a_pixel_is_predicted_from_those_before_it_and_from_all_of_them():
    """By the gradient with respect to the tokens' vectors."""
    run = one_device()
    params = moved(run.engine.init(run.create).params)
    tokens = jnp.asarray(np.random.default_rng(0).permutation(SIDE**2)[None] % COLORS)

    @jax.jit
    def logits(params, tokens):
        return run.task.model(params).predictions(Pixels(tokens))[1][0]

    base = logits(params, tokens)
    for place in (0, 11, SIDE**2 - 1):
        other = tokens.at[0, place].set((tokens[0, place] + 1) % COLORS)
        changed = np.abs(np.asarray(logits(params, other) - base)).max(-1) > 1e-7
        expected = np.arange(SIDE**2) > place
        np.testing.assert_array_equal(changed, expected)


def test_hidden_pixels_are_not_seen_and_all_others_are():
    run = one_device(task="masked_pixels")
    params = moved(run.engine.init(run.create).params)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, COLORS, (1, SIDE**2)))
    hidden = jnp.zeros((1, SIDE**2), bool).at[0, 5].set(True)

    @jax.jit
    def logits(params, tokens):
        return run.task.model(params).predictions(Pixels(tokens, hidden))[1][0]

    base = logits(params, tokens)
    other = (tokens + 1) % COLORS
    np.testing.assert_array_equal(logits(params, tokens.at[0, 5].set(other[0, 5])), base)
    seen = np.abs(np.asarray(logits(params, tokens.at[0, 30].set(other[0, 30])) - base)).max(-1)
    assert (seen > 1e-7).all()


def test_pixels_are_hidden_with_the_probability_15_percent_and_one_at_least():
    keys = jax.random.split(jax.random.key(0), 4000)
    hidden = np.asarray(jax.jit(lambda keys: hide(keys, 256, 0.15))(keys))
    sigma = (0.15 * 0.85 / hidden.size) ** 0.5
    assert abs(hidden.mean() - 0.15) < 4 * sigma
    assert np.asarray(hide(keys, 3, 1e-6)).sum(1).min() == 1


@pytest.mark.parametrize("task", ["pixels", "masked_pixels"])
def test_a_new_model_gives_all_colours_the_same_probability(task):
    run = one_device(task=task)
    params = run.engine.init(run.create).params
    batch = {"image": jnp.asarray(batches()[0]["image"])}
    rows = jax.jit(lambda params: run.task.rows(run.task.model(params), batch, None))(params)
    np.testing.assert_allclose(rows["loss"], math.log(COLORS), rtol=1e-5)
    np.testing.assert_allclose(rows["bits_per_dim"], math.log2(COLORS) / 3, rtol=1e-5)


LAYOUTS = {
    "fsdp=4 tensor=2": dict(data=1, fsdp=4, tensor=2),
    "fsdp=8": dict(data=1, fsdp=8),
    "pmap": dict(engine="pmap"),
    "accumulate=2": dict(accumulate=2),
}


@functools.cache
def trained(task, layout):
    """Losses and parameters after three steps."""
    options = {f"parallel.{key}": value for key, value in LAYOUTS.get(layout, {}).items()}
    # The width makes the matrices large enough for fsdp to shard them.
    run = one_device(task=task) if layout == "one" else prepare(
        pixel_config(task=task, **options), DATASET
    )  # fmt: skip
    state, losses = run.engine.init(run.create), []
    for batch in batches():
        own = {name: batch[name] for name in run.task.batch_fields}
        state, metrics = run.train_step(state, run.engine.put_batch(own, BATCH))
        losses.append(float(metrics["loss"]))
    params = jax.tree.map(np.asarray, run.engine.globalize(state).params)
    return losses, params


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("task", ["pixels", "joint"])
def test_every_layout_and_engine_gives_the_same_numbers(task, layout):
    losses, params = trained(task, layout)
    expected, reference = trained(task, "one")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), params, reference)


def test_the_palette_is_never_trained():
    _, params = trained("joint", "one")
    run = one_device(task="joint")
    start = run.engine.init(run.create).params["embedding"]
    np.testing.assert_array_equal(params["embedding"]["palette"], start["palette"])
    assert np.abs(params["embedding"]["table"] - start["table"]).max() > 1e-4


def test_masked_pixels_under_pmap_are_those_of_one_device():
    losses, _ = trained("masked_pixels", "pmap")
    np.testing.assert_allclose(losses, trained("masked_pixels", "one")[0], rtol=1e-5)


def test_costs_are_those_of_the_closed_form():
    """Section 3.3's sizes: 12 L D^2 a pixel, the pairs that a causal query sees, both heads."""
    config = model_config("iGPT-S", num_classes=10)
    n, d, layers = 1024, 512, 24
    blocks = layers * (12 * n * d**2 + 2 * d * sum(range(1, n + 1)))
    assert flops.macs(config) == blocks + 3 * 512 * n + 10 * d
    run = one_device()
    assert run.task.macs(config) == flops.macs(config) + n * d * 512
    published = dict(S=76e6, M=455e6, L=1362e6)
    for size, count in published.items():
        found = flops.parameters(model_config(f"iGPT-{size}", num_classes=0))
        assert found == pytest.approx(count, rel=0.01)


def test_a_plan_counts_both_heads_and_fits_the_closed_form(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text(
        f"""
from vit_jax.config import default, duration

def get_config():
    config = default()
    config.task = "pixels"
    config.model.update({SMALL})
    config.total = duration(steps=10)
    config.batch_size = 8
    config.data.update(source="tfds:cifar10", pp="resize(6)|value_range(-1, 1)")
    config.parallel.update(data=1, fsdp=4, tensor=2)
    return config
"""
    )
    assert main(["plan", f"--config={path}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    n, d, layers = SIDE**2, 128, 2
    blocks = layers * (4 * d**2 + 2 * d * 256) * n + layers * n * (n + 1) * d
    # The palette is not trained: the product with it needs no gradient of the colours.
    assert found["flops_per_image"] == 6 * (blocks + d * COLORS * n) + 4 * 3 * COLORS * n
    norms = (2 * layers + 1) * d
    tables = COLORS * (3 + d) + d + n * d + d * COLORS
    assert found["params"] == layers * (4 * d**2 + 2 * d * 256) + norms + tables
    assert found["fits"]


def test_a_benchmark_takes_the_images_of_the_model():
    assert run_config("iGPT-S", batch_size=8).model.image_size == 32
    assert run_config("ViT-B/16", batch_size=8).model.image_size == 224


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(task="pixels", **{"model.name": "ViT-Ti/3", "model.palette": None}), "model of pix"),
        (dict(task="pixels", **{"model.attention_kind": "full"}), "attention_kind to 'causal'"),
        (dict(task="masked_pixels", **{"model.attention_kind": "causal"}), "to 'full'"),
        (dict(task="pixels", **{"model.color_head": False}), "needs config.model.color_head"),
        (dict(task="joint", **{"model.color_head": False}), "needs config.model.color_head"),
        (dict(task="pixels", **{"model.num_classes": 4}), "has no classes"),
        (dict(task="pixels", **{"mixup.alpha": 0.2}), "looks at no labels"),
        (dict(task="joint", **{"mixup.alpha": 0.2}), "leave config.mixup off"),
        (dict(task="pixels", **{"loss.label_smoothing": 0.1}), "leave config.loss.label_smoothing"),
        (dict(task="masked_pixels(rate=1.0)"), "a number between 0 and 1"),
        (dict(task="masked_pixels(rate='a')"), "rate is 'a'; give a number"),
        (dict(task="joint(weight='x')"), "weight is 'x'; give a number"),
        (dict(task="masked_pixels(ratio=0.3)"), "unknown argument of config.task masked_pixels"),
        (dict(task="joint(weight=0)"), "give a positive number"),
        (dict(**{"model.patch_size": 2}), "needs model.patch_size"),
        (dict(**{"model.head": "token"}), "head"),
        (dict(**{"model.registers": 2}), "needs model.registers 0"),
        (dict(**{"model.palette": 1}), "2 or more colours"),
        (dict(**{"model.image_size": 7}), "make them equal"),
        (dict(**{"model.patch_dropout": 0.5}), "patch_dropout"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        one_device(**options)
    assert "\n" not in str(caught.value)

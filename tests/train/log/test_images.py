"""Pictures and histograms of a run: what the trackers get under both engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.config import default
from vit_jax.parallel.engines import create_engine
from vit_jax.train import loop
from vit_jax.train.log.histograms import LIMITS, count, from_counts
from vit_jax.train.log.images import LARGEST, batch_images
from vit_jax.train.log.metrics import MetricsLog

HALF = (0.5, 0.5, 0.5)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 6, 3), np.uint8)


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_images_are_the_first_of_the_batch_and_flipped(engine):
    parallel = default().parallel
    parallel.engine = engine
    engine = create_engine(parallel)
    flip = np.arange(16) % 3 == 0
    batch = engine.put_batch({"image": IMAGES, "flip": flip}, 16)
    found = batch_images(batch, 5, HALF, HALF)
    expected = [np.fliplr(image) if f else image for image, f in zip(IMAGES[:5], flip)]
    np.testing.assert_array_equal(found, expected)


def test_normalised_images_are_shown_as_they_were():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (IMAGES / 255 - np.array(mean)) / np.array(std)
    found = batch_images({"image": jnp.asarray(normalised, jnp.float32)}, 16, mean, std)
    np.testing.assert_array_equal(found, IMAGES)


def test_large_images_are_made_smaller_and_others_left_out():
    large = jnp.full((3, 2 * LARGEST, LARGEST, 3), 77, jnp.uint8)
    found = batch_images({"image": large}, 2, HALF, HALF)
    assert found.shape == (2, LARGEST, LARGEST // 2, 3) and (found == 77).all()
    assert batch_images({"label": large}, 2, HALF, HALF) is None
    assert batch_images({"image": jnp.zeros((4, 10))}, 2, HALF, HALF) is None


def test_histograms_count_as_numpy_does():
    values = np.random.default_rng(0).normal(0, 2.0, (40, 50)).astype(np.float32)
    values[0, :3] = [0.0, 1e9, -1e9]
    found = from_counts(np.asarray(jax.jit(count, static_argnums=0)("x", {"a": values})["x/a"]))
    edges = np.concatenate([[-np.inf], LIMITS, [np.inf]])
    expected, _ = np.histogram(values, edges)
    assert found.counts.sum() == values.size
    np.testing.assert_array_equal(found.counts[found.counts > 0], expected[expected > 0])


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_a_run_gives_them_to_its_trackers_and_trains_the_same(engine, tmp_path, monkeypatch):
    given = {"images": [], "histograms": []}
    monkeypatch.setattr(MetricsLog, "images", lambda _, *args: given["images"].append(args))
    real = MetricsLog.histograms

    def histograms(log, step, counts):
        given["histograms"].append((step, {k: np.asarray(v) for k, v in counts.items()}))
        real(log, step, counts)

    monkeypatch.setattr(MetricsLog, "histograms", histograms)
    losses = []
    for every in (2, 0):
        config = default()
        config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
        config.data.update(source="digits", pp="resize(8)|value_range(-1, 1)")
        config.batch_size, config.total.steps, config.parallel.engine = 16, 4, engine
        config.log.update(every=1, histograms=every, images=3, trackers=("csv",))
        config.log.tensorboard = False
        summary = loop.train(config, str(tmp_path / str(every)))
        losses.append(summary["metrics"]["train/loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    ((step, name, images), _) = given["images"]
    assert (step, name) == (1, "train/images") and images.shape == (3, 8, 8, 3)
    assert [step for step, _ in given["histograms"]] == [2, 4]
    for _, counts in given["histograms"]:
        parameters = {name for name in counts if name.startswith("parameters/")}
        gradients = {name for name in counts if name.startswith("gradients/")}
        assert {p.partition("/")[2] for p in parameters} == {g.partition("/")[2] for g in gradients}
        assert all(found[-1] > 0 for found in counts.values())
        assert sum(counts[name][-1] for name in parameters) == summary["params"]

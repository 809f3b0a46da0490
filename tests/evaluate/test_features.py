import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax import config as configs
from vit_jax.checkpoint.load import read_weights
from vit_jax.data import open_source, parse
from vit_jax.errors import InputError
from vit_jax.evaluate.features import (
    compile_outputs,
    headless_config,
    headless_params,
    protocol_pp,
)
from vit_jax.models import abstract, build_model, model_config
from vit_jax.parallel.engines import create_engine
from vit_jax.tasks.classification import Classification
from vit_jax.tasks.masked_patches import MaskedPatches

PP = "resize(16)|value_range(-1, 1)"


@pytest.fixture(scope="module")
def expected(workdir):
    """What the head of the loaded model sees, for all digits of a split in their order."""
    model, _ = vit_jax.load(workdir)
    source = open_source("digits", "train[70%:]")
    large = np.repeat(np.repeat(source.images, 2, 1), 2, 2)  # resized without interpolation
    images = jnp.asarray(np.repeat(large, 3, 3) / 127.5 - 1, jnp.float32)
    _, out = model(images, return_intermediates=True)
    return np.asarray(out["pre_logits"]), source.targets


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_features_are_what_the_head_sees(workdir, expected, engine):
    parallel = configs.default().parallel
    parallel.engine = engine
    engine = create_engine(parallel)
    info = read_weights(workdir)
    params = info.params
    config = headless_config(info.config)
    pp = parse("resize(16, method='nearest')|value_range(-1, 1)")
    outputs = compile_outputs(engine, config, pp, batch_size=99)
    assert outputs.batch_size == 104  # divides over eight devices, not into 539 examples
    params = jax.device_put(headless_params(params, config), engine.replicated)
    source = open_source("digits", "train[70%:]")
    features, labels = outputs(params, source)
    assert features.shape == (539, 32)
    np.testing.assert_allclose(features, expected[0], atol=2e-5)
    np.testing.assert_array_equal(labels, expected[1])
    chosen = np.array([500, 3, 77])
    features, labels = outputs(params, source, chosen)
    np.testing.assert_allclose(features, expected[0][chosen], atol=2e-5)
    np.testing.assert_array_equal(labels, expected[1][chosen])


@pytest.mark.parametrize(
    "task, options",
    [
        (Classification(), dict(distillation="head")),
        (Classification(), dict(pre_logits=-1)),
        (MaskedPatches(), dict(num_classes=0)),
    ],
    ids=str,
)
def test_all_parameters_but_the_heads(task, options):
    config = model_config("ViT-Ti/16", image_size=32, **options)
    _, whole = abstract(functools.partial(task.build_model, config))
    _, headless = abstract(functools.partial(build_model, headless_config(config)))
    assert headless_params(whole, headless_config(config)) == headless
    assert whole.keys() > headless.keys()


def test_the_protocol_resizes_to_256_for_224():
    pp = protocol_pp((224, 224), parse("decode|resize(300)|value_range(-1, 1)"))
    assert str(pp) == "decode|resize(256)|central_crop(224)|value_range(-1, 1)"


def test_the_protocol_keeps_what_makes_images_of_stored_values():
    """dSprites stores pixels of 0 and 1."""
    pp = protocol_pp((224, 224), parse("multiply(255)|resize(224)|value_range(-1, 1)"))
    assert str(pp) == "decode|multiply(255)|resize(256)|central_crop(224)|value_range(-1, 1)"


def test_preprocessing_of_another_size_is_refused(workdir, features_of):
    with pytest.raises(InputError, match="takes"):
        features_of(workdir, "resize(20)|value_range(-1, 1)")

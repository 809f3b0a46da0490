"""A small ViT of 1000 classes, trained for some seconds on digits, with few-shot evaluation."""

import pytest

from vit_jax import config as configs
from vit_jax.evaluate.frozen.probe import NearestNeighbours
from vit_jax.evaluate.stored import open_stored
from vit_jax.train import loop


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    config = configs.default()
    config.model.update(
        name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2, num_classes=1000
    )
    config.data.pp = "resize(16)|value_range(-1, 1)"
    config.data.split = "train[:70%]"
    config.batch_size = 64
    config.total.steps = 60
    config.optimizer.learning_rate = 3e-3
    config.log.update(every=20, tensorboard=False)
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[70%:]")
        config.evals.digits = configs.evaluation(
            "fewshot",
            train="train[:70%]",
            test="train[70%:]",
            shots=(1, 5),
            seeds=2,
            batch_size=128,
        )
    path = tmp_path_factory.mktemp("digits")
    loop.train(config, str(path))
    return path


@pytest.fixture(scope="session")
def features_of():
    """(path, options of `open_stored`) -> (source, numbers of examples) -> features, labels."""

    def load(path, pp="", **options):
        stored = open_stored(str(path), pp=pp or None, **options)
        features = NearestNeighbours(pp=pp).compile(stored.context)
        return features(stored.params)

    return load

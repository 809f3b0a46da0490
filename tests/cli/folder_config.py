"""A config for image folders that leaves the model and the preprocessing to `init_from`."""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation


def get_config() -> ConfigDict:
    config = default()
    config.data.split = "train[:90%]"
    config.batch_size = 32
    config.total = duration(epochs=10)
    config.eval_every = duration(epochs=1)
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.003
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = duration(epochs=1)
    config.optimizer.clip_norm = 1.0
    with config.unlocked():
        config.evals.test = evaluation(split="train[90%:]")
    return config

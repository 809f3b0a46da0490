"""Fine-tune any weights on a folder of images; the weights say the model, its size and more.

  vit_jax train --config=configs/folder.py --workdir=workdirs/mine \\
      --config.init_from=google/vit-base-patch16-224-in21k --config.data.source=folder:photos

init_from is a workdir, a checkpoint, a weight file or a hub id. The model with all its options, the
image size and the preprocessing come from it; set config.model.image_size for another
resolution. A tenth of the images is held out for evaluation; with a folder of its own:
--config.data.split=train --config.evals.test.split=val. On accelerators
--config.model.dtype=bfloat16 is faster. If the loss falls slowly or rises, try learning rates
of .001 and .01.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation


def get_config() -> ConfigDict:
    """The config; data.source and init_from are given on the command line."""
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

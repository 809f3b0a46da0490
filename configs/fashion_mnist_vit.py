"""A small plain ViT from scratch on Fashion-MNIST: how `vit_jax/fashion-mnist` was trained.

  vit_jax train --config=configs/fashion_mnist_vit.py --workdir=workdirs/fashion_mnist_vit

257,418 parameters: 49 tokens of 4x4 pixels, six blocks of width 64. 89.9% top-1 on the test images
after about an hour on one core of a busy machine. docs/results/finetuning.md fine-tunes
it. Reads the four IDX files of a folder:
configs/fashion_mnist_vit.py:DIR; by default where Debian's package puts them.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation

DEBIAN = "/usr/share/datasets/fashion-mnist"


def get_config(folder: str = DEBIAN) -> ConfigDict:
    """The config, with the folder that holds the IDX files."""
    config = default()
    config.model.name = "ViT-Ti/4"
    config.model.update(width=64, depth=6, mlp_dim=192, num_heads=4, head="gap")
    config.data.source = f"idx:{folder}"
    config.data.split = "train"
    # All images have 28 pixels; the model resizes what it is given later.
    config.data.pp = "resize(28)|random_crop(28, padding=2)|flip_lr|value_range(-1, 1)"
    with config.unlocked():
        config.evals.test = evaluation(split="test", batch_size=500)
    config.batch_size = 128
    config.total = duration(epochs=13)
    config.eval_every = duration(epochs=2)
    config.checkpoint.every = duration(epochs=1)
    config.log.every = 300
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup = duration(epochs=1)
    config.optimizer.clip_norm = 1.0
    return config

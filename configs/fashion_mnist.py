"""A small ViT from scratch on Fashion-MNIST: 60,000 images of 28x28 pixels, 10,000 for testing.

  vit_jax train --config=configs/fashion_mnist.py --workdir=workdirs/fashion_mnist

92.2% top-1 on the test images in 51 minutes on two CPU cores; docs/results has the curve.

Reads the four IDX files of a folder: configs/fashion_mnist.py:DIR; by default where
Debian's package dataset-fashion-mnist puts them.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation

DEBIAN = "/usr/share/datasets/fashion-mnist"


def get_config(folder: str = DEBIAN) -> ConfigDict:
    """The config, with the folder that holds the IDX files."""
    config = default()
    # A ResNet's root and first unit turn an image into 7x7 tokens. With them, a small ViT needs
    # fewer images than with plain patches (table 6).
    config.model.name = "R+ViT-Ti/2"
    config.model.update(resnet_stages=(1,), width=96, depth=2, mlp_dim=192, num_heads=3, head="gap")
    config.data.source = f"idx:{folder}"
    config.data.split = "train"
    config.data.pp = "random_crop(28, padding=1)|flip_lr|value_range(-1, 1)"
    with config.unlocked():
        config.evals.test = evaluation(split="test", batch_size=500)
    config.batch_size = 50
    config.total = duration(epochs=20)
    config.eval_every = duration(epochs=1)
    config.checkpoint.every = duration(epochs=1)
    config.log.every = 300
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup = duration(epochs=1)
    config.optimizer.clip_norm = 1.0
    return config

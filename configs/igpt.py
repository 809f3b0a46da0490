"""iGPT (Chen et al. 2020): a Transformer on pixels, without labels; docs/igpt.md has the way on.

  vit_jax train --config=configs/igpt.py:fashion_mnist --workdir=workdirs/igpt_fashion

trains a small model on Fashion-MNIST, of which the images are reduced to 16 x 16 pixels and 16
greys, in minutes on two CPU cores. The published setting, on 32 x 32 pixels of ImageNet:

  vit_jax train --config=configs/igpt.py:iGPT-S --workdir=workdirs/igpt_s

Another objective, size or resolution:

  --config.task=masked_pixels (BERT), :iGPT-M, :iGPT-L,48

The authors try learning rates of .01, .003, .001, .0003 and so on for each size (appendix); the
rate here is to be searched likewise.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import InputError

DEBIAN = "/usr/share/datasets/fashion-mnist"
SIZES = ("32", "48", "64")


def get_config(arg: str = "fashion_mnist") -> ConfigDict:
    """The config of "fashion_mnist" (or "fashion_mnist,DIR"), or of "NAME" or "NAME,SIDE"."""
    name, _, rest = arg.partition(",")
    return _fashion_mnist(rest or DEBIAN) if name == "fashion_mnist" else _imagenet(name, rest)


def _common() -> ConfigDict:
    """What both have of the published setting: Adam without weight decay, a cosine to 0."""
    config = default()
    config.task = "pixels"
    config.optimizer.name = "adam"
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.schedule = "cosine"
    return config


def _imagenet(name: str, side: str) -> ConfigDict:
    """Section 3 and the appendix: a million steps of 128 images, a warm-up of one epoch."""
    side = side or "32"
    if side not in SIZES:
        raise InputError(f"configs/igpt.py: {side} pixels; iGPT has {', '.join(SIZES)}")
    config = _common()
    config.model.name = name
    config.model.dtype = "bfloat16"
    config.model.remat = "full"
    config.data.source = "tfds:imagenet2012"
    config.data.split = "train[:96%]"
    # The shorter side is resized to 256 to 384 pixels, a square of 224 is cut at random.
    crop = f"random_crop(224)|resize({side}, antialias=True)|value_range(-1, 1)"
    config.data.pp = f"decode|resize_small(320)|{crop}"
    whole = f"central_crop(224)|resize({side}, antialias=True)|value_range(-1, 1)"
    with config.unlocked():
        pp = f"decode|resize_small(256)|{whole}"
        config.evals.held_out = evaluation(split="train[96%:]", pp=pp)
    config.batch_size = 128
    config.total = duration(steps=1_000_000)
    config.eval_every = duration(steps=10_000)
    config.checkpoint.every = duration(steps=5_000)
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup = duration(epochs=1)
    return config


def _fashion_mnist(folder: str) -> ConfigDict:
    """A model of 0.4 M parameters on 256 pixels."""
    config = _common()
    config.model.name = "iGPT-S"
    config.model.update(width=96, depth=6, mlp_dim=384, num_heads=4, palette=16)
    config.data.source = f"idx:{folder}"
    config.data.split = "train[:55000]"
    config.data.pp = "resize(16, antialias=True)|flip_lr|value_range(-1, 1)"
    with config.unlocked():
        config.evals.held_out = evaluation(split="train[55000:]", batch_size=500)
    config.batch_size = 64
    config.total = duration(epochs=2)
    config.eval_every = duration(epochs=1)
    config.checkpoint.every = duration(epochs=1)
    config.log.every = 50
    config.parallel.cpu_devices = 2
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup = duration(epochs=0.2)
    config.optimizer.clip_norm = 1.0
    return config

"""iGPT (Chen et al. 2020): a Transformer on pixels, without labels; docs/igpt.md has the way on.

  vit_jax train --config=configs/igpt.py:fashion_mnist --workdir=workdirs/igpt_fashion

trains a small model on Fashion-MNIST, of which the images are reduced to 14 x 14 pixels and 16
greys, in a quarter of an hour on two CPU cores. The published setting, on 32 x 32 pixels of
ImageNet:

  vit_jax train --config=configs/igpt.py:iGPT-S --workdir=workdirs/igpt_s

Fine-tuning on CIFAR-10, with the loss of the classes and of the pixels:

  vit_jax train --config=configs/igpt.py:cifar10 --workdir=workdirs/igpt_cifar10 \\
      --config.init_from=workdirs/igpt_s

Another objective, size or resolution:

  --config.task=masked_pixels (BERT), :iGPT-M, :iGPT-L,48

The authors try learning rates of .01, .003, .001, .0003 and so on for each size (appendix); the
rate here is to be searched likewise.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import InputError, unknown
from vit_jax.models import list_models

DEBIAN = "/usr/share/datasets/fashion-mnist"
SIZES = ("32", "48", "64")


def get_config(arg: str = "fashion_mnist") -> ConfigDict:
    """The config of "fashion_mnist" ("fashion_mnist,DIR"), "cifar10", "NAME" or "NAME,SIDE"."""
    name, _, rest = arg.partition(",")
    known = ("fashion_mnist", "cifar10", *list_models("iGPT-*"))
    if name not in known:
        raise unknown("argument of configs/igpt.py:", name, known)
    if arg == "cifar10":
        return _cifar10()
    if name == "cifar10":
        raise InputError(f"configs/igpt.py:{arg}: cifar10 takes no size; give cifar10 alone")
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
    # The authors resize the shorter side to a random 256 to 384 pixels; here it is 320.
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


def _cifar10() -> ConfigDict:
    """Section 3.3 and the appendix: a tenth of the rate of pre-training, without decay."""
    config = _common()
    config.task = "joint"
    config.model.dtype = "bfloat16"
    config.model.remat = "full"
    config.data.source = "tfds:cifar10"
    config.data.split = "train[:98%]"
    config.data.pp = "decode|random_crop(32, padding=4)|flip_lr|value_range(-1, 1)"
    pp = "decode|resize(32)|value_range(-1, 1)"
    with config.unlocked():
        config.evals.held_out = evaluation(split="train[98%:]", pp=pp)
        config.evals.test = evaluation(split="test", pp=pp)
    config.batch_size = 128
    config.total = duration(epochs=20)
    config.eval_every = duration(epochs=1)
    config.checkpoint.every = duration(epochs=1)
    config.checkpoint.best = "eval/held_out/top1"
    config.optimizer.schedule = "constant"
    config.optimizer.learning_rate = 3e-4
    return config


def _fashion_mnist(folder: str) -> ConfigDict:
    """A model of 0.2 M parameters on 196 pixels."""
    config = _common()
    config.model.name = "iGPT-S"
    config.model.update(width=64, depth=4, mlp_dim=256, num_heads=4, palette=16)
    config.data.source = f"idx:{folder}"
    config.data.split = "train[:55000]"
    config.data.pp = "resize(14, antialias=True)|flip_lr|value_range(-1, 1)"
    with config.unlocked():
        config.evals.held_out = evaluation(split="train[55000:]", batch_size=500)
    config.batch_size = 64
    config.total = duration(steps=1000)
    config.eval_every = duration(steps=500)
    config.checkpoint.every = duration(steps=500)
    config.log.every = 50
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup = duration(steps=100)
    config.optimizer.clip_norm = 1.0
    return config

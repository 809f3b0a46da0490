"""The paper's comparisons at a size for two CPU cores: small models on Fashion-MNIST.

  vit_jax train --config=configs/small.py:ViT --workdir=workdirs/small_vit

The argument names the family, ViT, BiT or hybrid, each with about the same number of
multiply-accumulates. Images are resized to 16x16 pixels; the Transformers have 4x4 tokens.
iGPT is a fourth: 10x10 pixels of 16 greys are its tokens, it learns without labels, and a linear
probe of each layer tests it.
`vit_jax tables N --scale=small --run` and benchmarks/small_scale.py start from this config
and change the options that they compare; docs/results has the results.
configs/small.py:FAMILY,fewshot also measures 5-shot accuracy on digits; FAMILY,DIR reads the IDX
files of another folder.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import unknown

DEBIAN = "/usr/share/datasets/fashion-mnist"

# 1.83, 1.86 and 1.78 million multiply-accumulates per image.
FAMILIES = {
    "ViT": ("ViT-Ti/4", dict(width=64, depth=3, mlp_dim=128, num_heads=4)),
    "hybrid": ("R+ViT-Ti/2", dict(width=64, depth=2, mlp_dim=128, num_heads=4)),
    "BiT": ("BiT-R50x1", dict(resnet_stages=(1,))),
}
# 20 million.
IGPT = ("iGPT-S", dict(width=48, depth=6, mlp_dim=192, num_heads=4, palette=16))


def get_config(arg: str = "ViT") -> ConfigDict:
    """The config of "FAMILY", "FAMILY,fewshot" or "FAMILY,DIR"."""
    family, _, rest = arg.partition(",")
    folder = "" if rest == "fewshot" else rest
    if family not in (*FAMILIES, "iGPT"):
        raise unknown("family", family, (*FAMILIES, "iGPT"))
    config = default()
    config.model.name, options = IGPT if family == "iGPT" else FAMILIES[family]
    config.model.update(**options)
    config.data.source = f"idx:{folder or DEBIAN}"
    config.data.pp = (
        "resize(16, antialias=True)|random_crop(16, padding=1)|flip_lr|value_range(-1, 1)"
    )
    config.data.resident = True
    with config.unlocked():
        config.evals.test = evaluation(split="test", batch_size=500)
    config.batch_size = 128
    config.total = duration(examples=60_000)
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup = duration(examples=6_000)
    config.optimizer.clip_norm = 1.0
    config.log.tensorboard = False
    if rest == "fewshot":
        with config.unlocked():
            splits = dict(train="train[:80%]", test="train[80%:]", seeds=10)
            config.evals.fewshot = evaluation("fewshot", source="digits", shots=(5,), **splits)
    if family == "iGPT":
        config.task = "pixels"
        config.data.pp = "resize(10, antialias=True)|flip_lr|value_range(-1, 1)"
        config.batch_size = 64
        config.optimizer.weight_decay = 0.0
        with config.unlocked():
            splits = dict(train="train[:10000]", test="test")
            config.evals.probe = evaluation("probe", layers="all", batch_size=500, **splits)
    return config

"""The paper's comparisons at a size that two CPU cores carry: small models on Fashion-MNIST.

  vit_jax train --config=configs/small.py:ViT --workdir=workdirs/small_vit

The argument names the family: ViT, BiT or hybrid. `vit_jax tables N --scale=small --run`
starts from here and changes what it compares; docs/results has what came of it.
configs/small.py:FAMILY,DIR reads the IDX files of another folder.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import unknown

DEBIAN = "/usr/share/datasets/fashion-mnist"


def get_config(arg: str = "ViT") -> ConfigDict:
    """The config of "FAMILY" or "FAMILY,DIR"."""
    family, _, folder = arg.partition(",")
    config = default()
    if family == "ViT":
        config.model.name = "ViT-Ti/7"  # 4x4 patches
        config.model.update(width=64, depth=4, mlp_dim=128, num_heads=4)
    else:
        raise unknown("family", family, ("ViT",))
    config.data.source = f"idx:{folder or DEBIAN}"
    config.data.pp = "random_crop(28, padding=1)|flip_lr|value_range(-1, 1)"
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
    return config

"""Fine-tuning as in the ViT paper (2010.11929, table 4), by model and data set.

  vit_jax train --config=configs/finetune.py:ViT-B/16,cifar10 --workdir=workdirs/b16_cifar10 \\
      --config.init_from=workdirs/vit_b16_i21k

Data sets: imagenet, imagenet512, cifar10, cifar100, pets, flowers. Choose the learning rate with
runs that hold out a part of the training set; the final run then uses all of it:

  vit_jax train --config=configs/finetune.py:ViT-B/16,cifar10,dev --workdir=... \\
      --config.optimizer.learning_rate=0.01

Rates to try: .003, .01, .03 (and .06 for ResNets and hybrids) on ImageNet; .001, .003, .01, .03
elsewhere. Published top-1 at 384 pixels after pre-training on ImageNet-21k (table 5):

             B/16    B/32    L/16    L/32    H/14
  imagenet   83.97   81.28   85.15   80.99   85.13
  cifar10    98.95   98.79   99.16   99.13   99.27
  cifar100   91.67   91.97   93.44   93.04   93.82
  pets       94.43   93.02   94.73   93.09   94.82
  flowers    99.38   99.11   99.61   99.19   99.51

Dropout is 0, as table 4 names none. The public code of the paper keeps the pre-training value
when it fine-tunes, 0.1 for L/16, H/14 and the R50+B/16 hybrid: --config.model.dropout=0.1.

Models with patches of 14 pixels take images of 378 pixels, 27x27 patches. init_from is by
default the file that Google publishes, such as ViT-B_16.npz, in the current directory.

imagenet512 is ImageNet as in table 2: 512 pixels (518 for patches of 14) and parameters
averaged with a decay of .9999. Published: L/16 85.30 after ImageNet-21k, 87.76 after JFT;
H/14 88.55 after JFT. `vit_jax evaluate --use-ema --protocol=real` gives the ReaL row.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import InputError, unknown
from vit_jax.models.variants import canonical_name

# Source, test split, percentage of the training set held out in dev runs, steps, warm-up steps.
DATASETS = {
    "imagenet": ("tfds:imagenet2012", "validation", 1, 20_000, 500),
    "imagenet512": ("tfds:imagenet2012", "validation", 1, 20_000, 500),
    "cifar10": ("tfds:cifar10", "test", 2, 10_000, 500),
    "cifar100": ("tfds:cifar100", "test", 2, 10_000, 500),
    "pets": ("tfds:oxford_iiit_pet", "test", 10, 500, 100),
    "flowers": ("tfds:oxford_flowers102", "test", 10, 500, 100),
}


def get_config(arg: str = "ViT-B/16,cifar10") -> ConfigDict:
    """The config for "MODEL,DATASET", or "MODEL,DATASET,dev" to choose a learning rate."""
    model, _, rest = arg.partition(",")
    dataset, _, dev = rest.partition(",")
    if not dataset or dev not in ("", "dev"):
        raise InputError(f"configs/finetune.py:{arg}: write :MODEL,DATASET or :MODEL,DATASET,dev")
    if dataset not in DATASETS:
        raise unknown("data set to fine-tune on", dataset, DATASETS)
    source, test_split, dev_percent, steps, warmup = DATASETS[dataset]
    config = default()
    config.model.name = canonical_name(model)
    config.model.dtype = "bfloat16"
    config.init_from = config.model.name.replace("/", "_") + ".npz"
    config.total = duration(steps=steps)
    config.batch_size = 512
    config.eval_every = duration(steps=steps // 5)
    config.checkpoint.every = duration(steps=1000)

    patch = int(config.model.name.partition("/")[2] or 1)
    large = dataset == "imagenet512"
    size = -(-512 // patch) * patch if large else 384 // patch * patch
    config.data.source = source
    config.data.pp = f"decode|inception_crop({size})|flip_lr|value_range(-1, 1)"
    pp = f"decode|resize({size})|value_range(-1, 1)"
    with config.unlocked():
        if dev:
            config.data.split = f"train[:{100 - dev_percent}%]"
            config.evals.dev = evaluation(split=f"train[{100 - dev_percent}%:]", pp=pp)
        else:
            config.evals.test = evaluation(split=test_split, pp=pp)
    if large:
        config.optimizer.ema_decay = 0.9999
        for entry in config.evals.values():
            entry.use_ema = True

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.03  # in every sweep, and the public code's default
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = duration(steps=warmup)
    config.optimizer.clip_norm = 1.0
    return config

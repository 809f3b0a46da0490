"""2x2 patches with full self-attention on small images (Cordonnier et al., 1911.03584).

  vit_jax train --config=configs/two_by_two.py:quadratic,cifar10 --workdir=workdirs/quadratic
  vit_jax train --config=configs/two_by_two.py:ViT,fashion_mnist --workdir=workdirs/vit_2x2

The first argument is the model:

  ViT        a ViT with 2x2 patches, the mean of the patches, and relative position embeddings
  quadratic  the publication's: a Gaussian over offsets for every head
  learned    the publication's: a learnt score for every offset
  content    the same, with products of queries and keys

The second is the data set. cifar10 has the publication's setting: 32x32 pixels, 256 tokens of
width 400, 6 layers, 9 heads, 300 epochs. fashion_mnist is for two CPU cores: images resized to
16x16 pixels, 64 tokens, 3 layers of width 64, an epoch; :MODEL,fashion_mnist,DIR reads the IDX
files of another folder. --config.model.patch_size=4 gives the model with 4x4 patches.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.config_files import import_file
from vit_jax.errors import InputError, unknown

SMALL = Path(__file__).with_name("small.py")  # Fashion-MNIST for two CPU cores
# Norms of sums, the mean of the last tokens without a norm, positions in the scores alone.
PUBLISHED = dict(
    block="sum_norm", final_norm=False, posemb="none", gelu="erf", norm_eps=1e-12,
    dropout=0.1, attention_dropout=0.1,
)  # fmt: skip
MODELS = {
    "ViT": dict(posemb="relative", posemb_where="layers"),
    "quadratic": dict(PUBLISHED, attention_kind="quadratic"),
    "learned": dict(PUBLISHED, attention_kind="offsets(positions=16)"),
    "content": dict(PUBLISHED, attention_kind="offsets(positions=16, content=True)"),
}
DATASETS = ("cifar10", "fashion_mnist")
CIFAR = "normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))"


def get_config(arg: str = "quadratic,fashion_mnist") -> ConfigDict:
    """The config of "MODEL,DATASET" or "MODEL,fashion_mnist,DIR"."""
    model, _, rest = arg.partition(",")
    dataset, _, folder = (rest or "fashion_mnist").partition(",")
    if model not in MODELS:
        raise unknown("model with 2x2 patches", model, MODELS)
    if dataset not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    small = dataset == "fashion_mnist"
    if folder and not small:
        raise InputError(f"configs/two_by_two.py:{arg}: only fashion_mnist takes a folder")
    config = import_file(SMALL).get_config(f"ViT,{folder}") if small else default()
    config.model.name = "ViT-Ti/2"
    config.model.head = "gap"
    config.model.update(MODELS[model])
    if not small:
        _publish(config, model)
    return config


def _publish(config: ConfigDict, model: str) -> None:
    """CIFAR-10 as in the publication's code."""
    heads = 9 if model != "ViT" else 8  # a ViT divides its width among the heads
    config.model.update(width=400, depth=6, mlp_dim=512, num_heads=heads)
    config.data.source = "tfds:cifar10"
    config.data.split = "train"
    config.data.pp = f"decode|random_crop(32, padding=4)|flip_lr|{CIFAR}"
    with config.unlocked():
        config.evals.test = evaluation(split="test", batch_size=500)
    config.batch_size = 100
    config.total = duration(epochs=300)
    config.eval_every = duration(epochs=5)
    config.checkpoint.every = duration(epochs=5)
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = duration(epochs=15)

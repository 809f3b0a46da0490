"""Masked patch prediction with B/16 (2010.11929, section 4.6 and appendix B.1.2), by data set.

  vit_jax train --config=configs/masked_patch.py:jft --workdir=workdirs/masked_jft \\
      --config.data.source=folder:DIR

Half of the patches are corrupted, and the model predicts their mean colours; labels are not
used. On JFT the paper trains for 1M steps and reaches 79.9% on ImageNet after fine-tuning,
2 points above training from scratch. It finds little gain beyond 100k steps, and a similar gain
with ImageNet:

  vit_jax train --config=configs/masked_patch.py:imagenet --workdir=workdirs/masked_imagenet

Fine-tuning takes the encoder and starts a new head:

  vit_jax train --config=configs/finetune.py:ViT-B/16,imagenet --workdir=workdirs/masked_b16 \\
      --config.init_from=workdirs/masked_jft

The paper names no weight decay, so there is none here. metrics.jsonl has the loss; its
eval/val/top1 is the share of corrupted patches with the right colour predicted.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import unknown

# Source, split for evaluation, steps.
DATASETS = {
    "jft": ("folder:jft", "train[:50000]", 1_000_000),
    "imagenet": ("tfds:imagenet2012", "validation", 100_000),
}


def get_config(dataset: str = "jft") -> ConfigDict:
    """The config of a data set, "jft" or "imagenet"."""
    if dataset not in DATASETS:
        raise unknown("data set to pre-train on", dataset, DATASETS)
    source, split, steps = DATASETS[dataset]
    config = default()
    config.task = "masked"
    config.total = duration(steps=steps)
    config.batch_size = 4096
    config.eval_every = duration(steps=10_000)
    config.checkpoint.every = duration(steps=1000)

    config.model.name = "ViT-B/16"
    config.model.dtype = "bfloat16"

    config.data.source = source
    config.data.split = "train[50000:]" if dataset == "jft" else "train"
    config.data.pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
    pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
    with config.unlocked():
        config.evals.val = evaluation(split=split, pp=pp)

    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = duration(steps=10_000)
    return config

"""Pre-training on ImageNet-21k as in the ViT paper (2010.11929, table 3), by model.

  vit_jax train --config=configs/vit_i21k.py:ViT-B/16 --workdir=workdirs/vit_b16_i21k \\
      --config.data.source=folder:DIR

DIR holds a folder of images per class (14.2M images). 90 epochs at 224 pixels; the paper
also trains L for 30: --config.total.epochs=30. Then fine-tune with configs/finetune.py,
whose docstring has the published numbers: B/16 reaches 83.97 on ImageNet (table 5).
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import unknown
from vit_jax.models.variants import canonical_name

MODELS = ("ViT-B/16", "ViT-B/32", "ViT-L/16", "ViT-L/32")


def get_config(model: str = "ViT-B/16") -> ConfigDict:
    """The config of a model, by its name."""
    model = canonical_name(model)
    if model not in MODELS:
        raise unknown("model in ImageNet-21k pre-training", model, MODELS)
    config = default()
    config.total = duration(epochs=90.0)
    config.batch_size = 4096
    config.eval_every = duration(steps=10_000)
    config.checkpoint.every = duration(steps=1000)

    config.model.name = model
    config.model.num_classes = 21_843  # as in the published weights; there may be fewer folders
    config.model.pre_logits = -1
    config.model.head_bias = -10.0
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.parallel.layout = "auto"
    config.loss.name = "sigmoid"

    config.data.source = "folder:imagenet21k"
    config.data.split = "train[:99%]"
    config.data.pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
    pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
    with config.unlocked():
        config.evals.dev = evaluation(split="train[99%:]", pp=pp)

    config.optimizer.name = "adamw"  # the paper's Adam: its code decouples the weight decay
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.03
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = duration(steps=10_000)
    return config

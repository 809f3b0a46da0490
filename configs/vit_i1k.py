"""Pre-training on ImageNet-1k as in the ViT paper (2010.11929, table 3), by model.

  vit_jax train --config=configs/vit_i1k.py:ViT-B/16 --workdir=workdirs/vit_b16_i1k

300 epochs (93.8k steps) at 224 pixels; then fine-tune at 384 with configs/finetune.py.
Published top-1 on ImageNet after that (table 5): B/16 77.91, B/32 73.38, L/16 76.53,
L/32 71.16. All models have the same settings, as in the table; any other model name works too.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.models.variants import canonical_name


def get_config(model: str = "ViT-B/16") -> ConfigDict:
    """The config of a model, by its name."""
    config = default()
    config.total = duration(epochs=300.0)
    config.batch_size = 4096
    config.eval_every = duration(steps=5000)
    config.checkpoint.every = duration(steps=1000)

    config.model.name = canonical_name(model)
    config.model.pre_logits = -1
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.parallel.layout = "auto"

    config.data.source = "tfds:imagenet2012"
    config.data.pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
    pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
    with config.unlocked():
        config.evals.val = evaluation(split="validation", pp=pp)

    config.optimizer.name = "adamw"  # the paper's Adam: its code decouples the weight decay
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = duration(steps=10_000)
    config.optimizer.clip_norm = 1.0
    return config

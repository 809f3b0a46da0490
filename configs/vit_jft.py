"""Pre-training on JFT-300M as in the ViT paper (2010.11929, table 3), by model.

  vit_jax train --config=configs/vit_jft.py:ViT-L/16 --workdir=workdirs/vit_l16_jft \\
      --config.data.source=folder:DIR

JFT-300M (303M images, 18,291 classes) is not public: use this config to plan such a run,
or to train on a data set of that size. Published top-1 on ImageNet after fine-tuning at
384 pixels (tables 5 and 6) and cost in TPUv3-core-days (table 2):

              B/32    B/16    L/32    L/16 (7 epochs)   L/16 (14)     H/14 (14)
  ImageNet    80.73   84.15   84.37   86.30             87.12         88.04
  core-days                                             0.68k         2.5k

L/16 runs for 14 epochs; for the paper's run of 7: --config.total.examples=2121000000
configs/vit_jft.py:ViT-B/16,fewshot also measures 5-shot accuracy on ImageNet (table 8: .64206).
"""

from ml_collections import ConfigDict

from vit_jax import config as configs
from vit_jax.config import default, duration
from vit_jax.errors import unknown
from vit_jax.models.variants import canonical_name

IMAGES = 303_000_000
# Epochs and learning rate.
MODELS = {
    "ViT-B/32": (7, 8e-4),
    "ViT-B/16": (7, 8e-4),
    "ViT-L/32": (7, 6e-4),
    "ViT-L/16": (14, 4e-4),
    "ViT-H/14": (14, 3e-4),
    "BiT-R50x1": (7, 1e-3),
    "BiT-R50x2": (7, 1e-3),
    "BiT-R101x1": (7, 8e-4),
    "BiT-R152x1": (7, 6e-4),
    "BiT-R152x2": (7, 6e-4),
    "R50+ViT-B/32": (7, 8e-4),
    "R50+ViT-B/16": (7, 8e-4),
    "R50+ViT-L/32": (7, 2e-4),
    "R50+ViT-L/16": (14, 4e-4),
}


def get_config(arg: str = "ViT-L/16") -> ConfigDict:
    """The config of "MODEL", or "MODEL,fewshot"."""
    model, _, evaluation = arg.partition(",")
    model = canonical_name(model)
    if model not in MODELS:
        raise unknown("model in JFT pre-training", model, MODELS)
    if evaluation not in ("", "fewshot"):
        raise unknown("evaluation in JFT pre-training", evaluation, ("fewshot",))
    epochs, learning_rate = MODELS[model]
    config = default()
    config.total = duration(examples=epochs * IMAGES)
    config.batch_size = 4096
    config.checkpoint.every = duration(steps=1000)

    config.model.name = model
    config.model.num_classes = 18_291
    config.model.pre_logits = 0 if model.startswith("BiT") else -1
    config.model.head_bias = -10.0
    config.model.dtype = "bfloat16"
    config.parallel.layout = "auto"
    config.loss.name = "sigmoid"

    config.data.source = "folder:jft"
    config.data.pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"

    if evaluation:
        with config.unlocked():
            config.evals.imagenet = configs.evaluation(
                "fewshot", source="tfds:imagenet2012", test="validation"
            )

    config.optimizer.name = "adamw"  # the paper's Adam: its code decouples the weight decay
    config.optimizer.learning_rate = learning_rate
    config.optimizer.weight_decay = 0.1
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = duration(steps=10_000)
    return config

"""Pre-training as in "How to train your ViT?" (2106.10270), by model, data and level.

  vit_jax train --config=configs/augreg.py:ViT-S/16,i1k,medium2 --workdir=workdirs/s16_augreg

Data: i1k (tfds:imagenet2012) or i21k (folder:imagenet21k). Levels of RandAugment and mixup, from
weak to strong: none, light1, light2, medium1, medium2, strong1, strong2. 300 epochs at 224
pixels; the publication also has 30 epochs of ImageNet-21k: --config.total.epochs=30. It tries
each level without regularisation, as here, and with:

  --config.model.dropout=0.1 --config.model.stochastic_depth=0.1

and a weight decay of .1, as here, or .03. As in the authors' code, and not said in the text:
the loss is the sigmoid loss on ImageNet-1k, too, with an initial head bias of -6.9, and models
for ImageNet-1k have the representation layer (a dense layer with tanh before the head); learned
positions begin with a standard deviation of width ** -0.5; Adam's first moment is bfloat16; and
RandAugment computes what that code does, not what Pillow does (vit_jax/data/ops/randaugment.py
lists the differences). Its best top-1 on ImageNet at 224 pixels for each
model (table 3 there), after pre-training alone (i1k) and after fine-tuning (i21k):

                  Ti/16   S/32    S/16    B/32    B/16    L/16   R26+S/32  R50+L/32
  i1k, 300        72.59   72.07   79.00   74.42   79.84   75.72   79.61     76.84
  i21k, 30        68.89   68.49   76.04   72.24   80.42   82.05   77.42     80.26
  i21k, 300       73.75   73.47   80.46   79.13   83.96   83.98   80.81     82.74
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.data.ops.color import AUGREG
from vit_jax.errors import InputError, unknown
from vit_jax.models import model_config
from vit_jax.models.variants import canonical_name

DATASETS = ("i1k", "i21k")


def get_config(arg: str = "ViT-S/16,i1k,medium2") -> ConfigDict:
    """The config for "MODEL,DATA,LEVEL"."""
    model, _, rest = arg.partition(",")
    dataset, _, level = rest.partition(",")
    if not level:
        raise InputError(f"configs/augreg.py:{arg}: write :MODEL,DATA,LEVEL")
    if dataset not in DATASETS:
        raise unknown("data set to pre-train on", dataset, DATASETS)
    if level not in AUGREG:
        raise unknown("AugReg level", level, AUGREG)
    config = default()
    config.total = duration(epochs=300.0)
    config.batch_size = 4096
    config.eval_every = duration(steps=5000)
    config.checkpoint.every = duration(steps=1000)

    config.model.name = canonical_name(model)
    config.model.dtype = "bfloat16"
    config.model.posemb_std = model_config(config.model.name).width ** -0.5
    config.loss.name = "sigmoid"

    config.data.split = "train[:99%]"
    config.data.pp = f"decode|inception_crop(224)|flip_lr|augreg('{level}')|value_range(-1, 1)"
    config.mixup.alpha = AUGREG[level].mixup
    pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"
    with config.unlocked():
        config.evals.minival = evaluation(split="train[99%:]", pp=pp)
        if dataset == "i1k":
            config.data.source = "tfds:imagenet2012"
            config.model.pre_logits = -1
            config.model.head_bias = -6.9
            config.evals.val = evaluation(split="validation", pp=pp)
        else:
            config.data.source = "folder:imagenet21k"
            config.model.num_classes = 21_843  # as in published weights; there may be fewer folders
            config.model.head_bias = -10.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = duration(steps=10_000)
    config.optimizer.clip_norm = 1.0
    config.optimizer.moment_dtype = "bfloat16"
    return config

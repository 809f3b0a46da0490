"""Table cells that need no training: sizes, costs and the settings of the configs."""

import functools
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from vit_jax import models
from vit_jax.config_files import SHIPPED, load_config
from vit_jax.models import flops
from vit_jax.models.vit_config import ViTConfig
from vit_jax.paper.tables import Key, table
from vit_jax.parallel import hardware
from vit_jax.plan.report import SECONDS_PER_DAY

Cells = dict[Key, float | str]

JFT_IMAGES, IMAGENET_21K_IMAGES = 303_000_000, 14_197_122
# The MFU at which table 2's TPU-core-days are computed, as `vit_jax plan` does by default.
MFU = 0.4
_SIZES = {"ViT-Base": "ViT-B", "ViT-Large": "ViT-L", "ViT-Huge": "ViT-H"}
# Model, images seen in pre-training (appendix B).
_PRETRAINING = {
    "H/14 JFT": ("ViT-H/14", 14 * JFT_IMAGES),
    "L/16 JFT": ("ViT-L/16", 14 * JFT_IMAGES),
    "L/16 I21k": ("ViT-L/16", 90 * IMAGENET_21K_IMAGES),
}
_CONFIGS = {"JFT": "vit_jft.py", "ImageNet-21k": "vit_i21k.py", "ImageNet": "vit_i1k.py"}
_FINETUNE = {
    "ImageNet": "imagenet",
    "CIFAR-100": "cifar100",
    "CIFAR-10": "cifar10",
    "Oxford-IIIT Pets": "pets",
    "Oxford Flowers-102": "flowers",
}


def computed(number: int) -> Cells:
    """This package's values of those cells of a table that follow from the code alone.

    Tables 3 and 4 hold settings of the project's config files.
    """
    functions: dict[int, Callable[[], Cells]] = {
        1: _variants,
        2: _core_days,
        3: _pretraining_settings,
        4: _finetuning_settings,
        6: _exaflops,
    }
    return functions[number]() if number in functions else {}


def _variants() -> Cells:
    cells: Cells = {}
    for row in table(1).rows:
        patch = 14 if row in ("ViT-Huge", "ViT-g", "ViT-G") else 16
        config = models.model_config(f"{_SIZES.get(row, row)}/{patch}", image_size=224)
        assert isinstance(config, ViTConfig)
        _, params = models.abstract(functools.partial(models.build_model, config))
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        cells |= {
            (row, "Layers"): config.depth,
            (row, "Hidden size D"): config.width,
            (row, "MLP size"): config.mlp_dim,
            (row, "Heads"): config.num_heads,
            (row, "Params (M)"): round(count / 1e6, 1),
        }
    return cells


def _core_days() -> Cells:
    chip = hardware.TPU_V3
    cells: Cells = {}
    for column, (name, images) in _PRETRAINING.items():
        work = images * flops.train_flops(models.model_config(name, num_classes=0))
        seconds = work / (chip.bf16_flops / chip.cores) / MFU
        cells["TPUv3-core-days", column] = round(seconds / SECONDS_PER_DAY)
    return cells


def _exaflops() -> Cells:
    """Cost of the forward and backward pass, without head and without products with padding."""
    cells: Cells = {}
    for row in table(6).rows:
        name, epochs = row.removesuffix(" epochs").split(", ")
        macs = flops.macs(models.model_config(name, num_classes=0), padding=False)
        cells[row, "exaFLOPs"] = round(6 * macs * int(epochs) * JFT_IMAGES / 1e18, 1)
    return cells


def _pretraining_settings() -> Cells:
    cells: Cells = {}
    for row in table(3).rows:
        upstream, model = row.split(" ")
        config = load_config(f"{SHIPPED / _CONFIGS[upstream]}:{model}")
        optimizer = config.optimizer
        cells |= {
            (row, "Epochs"): _epochs(config),
            (row, "Base LR"): optimizer.learning_rate,
            (row, "LR decay"): optimizer.schedule,
            (row, "Weight decay"): optimizer.weight_decay,
            (row, "Dropout"): config.model.dropout,
        }
    return cells


def _epochs(config: ConfigDict) -> float:
    if config.total.epochs is not None:
        return config.total.epochs
    return config.total.examples / JFT_IMAGES


def _finetuning_settings() -> Cells:
    cells: Cells = {}
    for row, dataset in _FINETUNE.items():
        config = load_config(f"{SHIPPED / 'finetune.py'}:ViT-B/16,{dataset}")
        cells[row, "Steps"] = config.total.steps
    return cells

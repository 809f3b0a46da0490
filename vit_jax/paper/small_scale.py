"""The paper's tables at a size for two CPU cores: small models, and data sets at hand as stand-ins.

Pre-training is on parts of Fashion-MNIST, transfer to handwritten digits and to images of
Fashion-MNIST that pre-training did not see. A small table has the rows and columns of the paper's
table; `STAND_INS` says what the names stand for.
"""

import dataclasses
from collections.abc import Callable, Iterator

from vit_jax.paper.runs import DATASETS, SEEDS, Recipe, Run, posemb_cells
from vit_jax.paper.tables import Key, Table

METRIC = "eval/test/top1"
# Images of Fashion-MNIST, the first of its 60,000 training images.
UPSTREAM = {"ImageNet": 5_000, "ImageNet-21k": 15_000, "JFT": 50_000}
# 7 epochs of the paper stand for so many examples, 14 for twice as many.
EXAMPLES = 60_000
_WIDE = ("--config.model.width=96", "--config.model.depth=4")
_COARSE = ("--config.model.patch_size=(8,8)",)
# The paper's model -> argument of configs/small.py, and options that differ.
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ViT-B/16": ("ViT", ()),
    "ViT-B/32": ("ViT", _COARSE),
    "ViT-L/16": ("ViT", _WIDE),
    "ViT-L/32": ("ViT", (*_WIDE, *_COARSE)),
    "BiT-R50x1": ("BiT", ()),
    "BiT-R152x2": ("BiT", ("--config.model.resnet_stages=(2,)",)),
    "R50+ViT-B/16": ("hybrid", ()),
}
_RATES = ("1e-3", "3e-3")


@dataclasses.dataclass(frozen=True)
class Downstream:
    """Images to which a model is transferred.

    Attributes:
      source: digits or fashion.
      images: number of training images; a fifth of them is held out to choose the learning rate.
    """

    source: str
    images: int

    @property
    def name(self) -> str:
        """Name of the folder of its runs."""
        return f"{self.source}_{self.images}"

    def options(self, dev: bool = False) -> tuple[str, ...]:
        """Options of the data: all training images and the test set, or with a part held out."""
        first = 0 if self.source == "digits" else UPSTREAM["JFT"]
        test = "train[80%:]" if self.source == "digits" else "test"
        end = first + self.images
        if dev:
            kept = first + self.images * 4 // 5
            end, test = kept, f"train[{kept}:{end}]"
        splits = (
            f"--config.data.split=train[{first}:{end}]",
            f"--config.evals.test.split={test}",
        )
        return (*_DIGITS, *splits) if self.source == "digits" else splits


_DIGITS = (
    "--config.data.source=digits",
    # No flips: a digit's mirror image is not a digit.
    "--config.data.pp=resize(16)|random_crop(16, padding=1)|value_range(-1, 1)",
)
# By the name of the paper's data set.
DOWNSTREAM = {
    "imagenet": Downstream("digits", 1_437),
    "cifar10": Downstream("digits", 300),
    "cifar100": Downstream("fashion", 300),
    "flowers": Downstream("digits", 50),
    "pets": Downstream("fashion", 50),
}
VTAB = {"SVHN": Downstream("digits", 1_000), "CIFAR-100": Downstream("fashion", 1_000)}
_TRANSFER = (
    "transfer to digits: ImageNet 1,437, CIFAR-10 300, Flowers 50 images; to images of "
    "Fashion-MNIST: CIFAR-100 300, Pets 50"
)
_JFT = "JFT: 50,000 images of Fashion-MNIST"
_TRANSFORMERS = "16: 4x4 tokens of 16x16 pixels; 32: 2x2; B: 64 wide, 3 blocks; L: 96 wide, 4"
STAND_INS: dict[int, tuple[str, ...]] = {
    5: (
        "ImageNet, ImageNet-21k, JFT: 5,000, 15,000, 50,000 images of Fashion-MNIST",
        _TRANSFER,
        _TRANSFORMERS,
    ),
    6: (_JFT, _TRANSFER, "7 epochs: 60,000 examples", _TRANSFORMERS),
    7: (_JFT, _TRANSFER, "R50x1: one stage of one unit; R152x2: of two"),
    8: ("trained and tested on Fashion-MNIST, 4x4 tokens of 16x16 pixels",),
    9: (
        f"{_JFT}; I21k: 15,000",
        "SVHN: 1,000 images of digits; CIFAR-100: 1,000 of Fashion-MNIST",
        _TRANSFORMERS,
    ),
}


def pretraining(upstream: str, model: str, epochs: int = 7, sgd: bool = False) -> Run:
    """Pre-training of a small model on a part of Fashion-MNIST.

    Args:
      upstream: name of the paper's data set.
      model: name of the paper's model.
      epochs: the paper's, 7 or 14.
      sgd: whether to use SGD with momentum instead of Adam.
    """
    family, options = MODELS[model]
    name = model.replace("/", "_") + ("_sgd" if sgd else "")
    own = ("--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.1") if sgd else ()
    length = f"--config.total.examples={EXAMPLES * epochs // 7}"
    data = f"--config.data.split=train[:{UPSTREAM[upstream]}]"
    folder = f"small/pretrain/{upstream}/{name}_{epochs}ep"
    return Run(folder, f"configs/small.py:{family}", (*options, *own, data, length))


def finetuning(start: Run, model: str, to: Downstream) -> Recipe:
    """Fine-tuning with the learning rate that is better on held-out images, three seeds.

    Args:
      start: pre-training run.
      model: name of the paper's model.
      to: images of the transfer.
    """
    family, options = MODELS[model]
    folder = f"small/finetune/{start.workdir.removeprefix('small/pretrain/')}/{to.name}"
    length = ("--config.total.examples=20000", "--config.optimizer.warmup.examples=2000")
    # The head is new also where the classes have the same names.
    common = (*options, *length, "--config.init_skip=('head/.*',)")

    def run(name: str, *own: str) -> Run:
        return Run(f"{folder}/{name}", f"configs/small.py:{family}", (*common, *own), start)

    choices = tuple(
        (option, run(f"dev_lr{rate}", *to.options(dev=True), option))
        for rate in _RATES
        for option in [f"--config.optimizer.learning_rate={rate}"]
    )
    runs = tuple(run(f"seed{seed}", *to.options(), f"--config.seed={seed}") for seed in SEEDS)
    return Recipe(runs, METRIC, choices, METRIC)


def _table_5(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for row, model in paper.cells:
        upstream, dataset = row.split(": ")
        if model in MODELS and DATASETS.get(dataset) in DOWNSTREAM:
            start = pretraining(upstream, model)
            yield (row, model), finetuning(start, model, DOWNSTREAM[DATASETS[dataset]])


def _table_6(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for row, column in paper.cells:
        model, epochs = row.removesuffix(" epochs").split(", ")
        if model in MODELS and DATASETS.get(column) in DOWNSTREAM:
            start = pretraining("JFT", model, int(epochs))
            yield (row, column), finetuning(start, model, DOWNSTREAM[DATASETS[column]])


def _table_7(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for row, column in paper.cells:
        resnet, optimizer = column.split()
        model = f"BiT-{resnet}"
        if row in DATASETS:
            start = pretraining("JFT", model, sgd=optimizer == "SGD")
            yield (row, column), finetuning(start, model, DOWNSTREAM[DATASETS[row]])


def _table_8(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    return posemb_cells(paper, Run("small/posemb", "configs/small.py:ViT"), METRIC, len(SEEDS))


def _table_9(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for column, upstream in (("L/16 JFT", "JFT"), ("L/16 I21k", "ImageNet-21k")):
        start = pretraining(upstream, "ViT-L/16")
        for row, to in VTAB.items():
            yield (row, column), finetuning(start, "ViT-L/16", to)


TABLES: dict[int, Callable[[Table], Iterator[tuple[Key, Recipe]]]] = {
    5: _table_5,
    6: _table_6,
    7: _table_7,
    8: _table_8,
    9: _table_9,
}

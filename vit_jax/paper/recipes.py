"""The runs that fill each table cell: the paper's protocols, at the paper's or a small scale."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.evaluate.frozen import vtab
from vit_jax.paper.tables import Key, Table, table

SCALES = ("paper", "small")
SEEDS = (0, 1, 2)
DATASETS = {
    "ImageNet": "imagenet",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Oxford-IIIT Pets": "pets",
    "Oxford Flowers-102": "flowers",
    "Pets": "pets",
    "Flowers": "flowers",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, given by the arguments of `vit_jax train`."""

    workdir: str  # below the folder of all runs
    config: str  # FILE:ARGUMENT
    overrides: tuple[str, ...] = ()
    start: "Run | None" = None  # the run from whose weights it starts

    def arguments(self, folder: Path) -> list[str]:
        """--config and all overrides."""
        start = [f"--config.init_from={folder / self.start.workdir}"] if self.start else []
        return [f"--config={self.config}", *start, *self.overrides]

    def command(self, folder: Path) -> str:
        """The shell command that does this run alone."""
        words = ["vit_jax", "train", f"--workdir={folder / self.workdir}", *self.arguments(folder)]
        return shlex.join(words)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation of a finished run's weights on the ReaL labels of ImageNet (2006.07159)."""

    start: Run

    @property
    def workdir(self) -> str:
        """Where its summary.json goes."""
        return f"{self.start.workdir}/real"

    def options(self, folder: Path) -> dict[str, Any]:
        """Options of `evaluate_protocol`; the labels are in the folder of all runs."""
        return dict(
            protocol="real",
            labels=str(folder / "real.json"),
            source="tfds:imagenet2012",
            split="validation",
            use_ema="imagenet512" in self.start.config,  # its parameters are averaged
        )

    def command(self, folder: Path) -> str:
        """The shell command that does this evaluation."""
        options = self.options(folder)
        flags = ["--use-ema"] if options.pop("use_ema") else []
        flags += [f"--{name}={value}" for name, value in options.items()]
        checkpoint = f"--checkpoint={folder / self.start.workdir}"
        words = shlex.join(["vit_jax", "evaluate", checkpoint, *flags, "--json"])
        target = shlex.quote(str(folder / self.workdir))
        return (
            f"mkdir -p {target} && {words} >{target}/new && mv {target}/new {target}/summary.json"
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a cell is filled: the mean of `metric` over `runs`, one per seed.

    If there are `choices`, (override, run) pairs, these runs are done first, on a part of the
    training set; the override with the best `choice_metric` is added to every run.
    """

    runs: tuple[Run, ...]
    metric: str
    choices: tuple[tuple[str, Run], ...] = ()
    choice_metric: str = "eval/dev/top1"
    percent: bool = True  # the paper prints percent
    real: bool = False  # evaluate on ReaL's labels after training

    def final(self, choice: str = "") -> tuple[Run | Evaluation, ...]:
        """The runs or evaluations that give `metric`, with the chosen override."""
        extra = (choice,) if choice else ()
        runs = [dataclasses.replace(r, overrides=(*r.overrides, *extra)) for r in self.runs]
        return tuple(Evaluation(run) if self.real else run for run in runs)


def recipes(number: int, scale: str = "paper") -> dict[Key, Recipe]:
    """The recipes of a table's cells; cells without one are computed, derived or out of reach.

    Args:
      number: number of the table.
      scale: "paper": the paper's models and data; "small": the same comparison with
        small models on Fashion-MNIST, where there is one.

    Raises:
      InputError: an unknown scale, or a table without a small version.
    """
    if scale not in SCALES:
        raise unknown("--scale", scale, SCALES)
    small = scale == "small"
    makers = SMALL if small else _PAPER
    if number not in makers:
        if small:
            known = ", ".join(map(str, sorted(makers)))
            raise InputError(f"table {number} has no small version; tables {known} have one")
        return {}
    return dict(makers[number](table(number)))


def pretraining(upstream: str, model: str, epochs: int | None = None) -> Run:
    """Pre-training as in table 3.

    Args:
      upstream: "JFT", "ImageNet-21k" or "ImageNet".
      model: name of the model.
      epochs: number of epochs; None: that of the config.
    """
    file, images = {
        "JFT": ("vit_jft.py", 303_000_000),
        "ImageNet-21k": ("vit_i21k.py", None),
        "ImageNet": ("vit_i1k.py", None),
    }[upstream]
    overrides: tuple[str, ...] = ()
    suffix = ""
    if epochs and epochs != table(3).cells[f"{upstream} {model}", "Epochs"].value:
        unit = f"examples={epochs * images}" if images else f"epochs={epochs}"
        overrides, suffix = (f"--config.total.{unit}",), f"_{epochs}ep"
    workdir = f"pretrain/{upstream}/{_slug(model)}{suffix}"
    return Run(workdir, f"configs/{file}:{model}", overrides)


def finetuning(start: Run, model: str, name: str) -> Recipe:
    """Table 4: the learning rate chosen on a part of the training set, then three seeds.

    Args:
      start: pre-training run.
      model: name of the model.
      name: name of the data set in configs/finetune.py.
    """
    folder = f"finetune/{start.workdir.removeprefix('pretrain/')}/{name}"
    config = f"configs/finetune.py:{model},{name}"
    rates = {
        rate: f"--config.optimizer.learning_rate={rate}" for rate in learning_rates(name, model)
    }
    choices = tuple(
        (option, Run(f"{folder}/dev_lr{rate}", f"{config},dev", (option,), start))
        for rate, option in rates.items()
    )
    runs = tuple(
        Run(f"{folder}/seed{seed}", config, (f"--config.seed={seed}",), start) for seed in SEEDS
    )
    return Recipe(runs, "eval/test/top1", choices)


def _on(dataset: str, start: Run, model: str, imagenet: str = "imagenet") -> Recipe:
    """Fine-tuning and top-1 on a data set, under its name in the tables.

    Args:
      dataset: row or column of the table.
      start: pre-training run.
      model: name of the model.
      imagenet: name of ImageNet in configs/finetune.py, which is another one for table 2.
    """
    if dataset == "ImageNet ReaL":
        recipe = finetuning(start, model, imagenet)
        return dataclasses.replace(recipe, metric="top1", real=True)
    name = imagenet if dataset == "ImageNet" else DATASETS[dataset]
    return finetuning(start, model, name)


def learning_rates(name: str, model: str = "ViT-B/16") -> tuple[str, ...]:
    """Learning rates that table 4 sweeps; .06 is for ResNets and hybrids (appendix B.1.1)."""
    row = next(row for row in table(4).rows if DATASETS.get(row) == name.removesuffix("512"))
    rates = str(table(4).cells[row, "Base LR"].value).split()
    return tuple(rate for rate in rates if rate != ".06" or not model.startswith("ViT-"))


def _slug(name: str) -> str:
    return name.replace("/", "_")


# Columns of tables 2 and 9.
_UPSTREAM = {
    "H/14 JFT": ("JFT", "ViT-H/14"),
    "L/16 JFT": ("JFT", "ViT-L/16"),
    "L/16 I21k": ("ImageNet-21k", "ViT-L/16"),
}


def _table_2(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for column, (upstream, model) in _UPSTREAM.items():
        start = pretraining(upstream, model)
        for row in paper.rows:
            if row in (*DATASETS, "ImageNet ReaL"):
                yield (row, column), _on(row, start, model, imagenet="imagenet512")


def _table_5(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for row, model in paper.cells:
        upstream, dataset = row.split(": ")
        # The paper does not say how H/14 was pre-trained on ImageNet-21k.
        if (upstream, model) != ("ImageNet-21k", "ViT-H/14"):
            yield (row, model), _on(dataset, pretraining(upstream, model), model)


def _table_6(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    for row, column in paper.cells:
        model, epochs = row.removesuffix(" epochs").split(", ")
        # Table 3 has no settings for R200x3.
        if column != "exaFLOPs" and model != "BiT-R200x3":
            yield (row, column), _on(column, pretraining("JFT", model, int(epochs)), model)


def _table_7(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    """Only the columns of Adam: appendix D.1 does not give the settings of SGD."""
    for row, column in paper.cells:
        resnet, optimizer = column.split()
        if row in DATASETS and optimizer == "Adam":
            model = f"BiT-{resnet}"
            yield (row, column), _on(row, pretraining("JFT", model), model)


def _table_9(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    """VTAB-1k: one learning rate, three seeds."""
    names = {task.title: name for name, task in vtab.TASKS.items()}
    for column, (upstream, model) in _UPSTREAM.items():
        start = pretraining(upstream, model)
        for row in paper.rows:
            if row in names:
                folder = f"vtab/{start.workdir.removeprefix('pretrain/')}/{names[row]}"
                config = f"configs/vtab.py:{model},{names[row]}"
                runs = tuple(
                    Run(f"{folder}/seed{seed}", config, (f"--config.seed={seed}",), start)
                    for seed in SEEDS
                )
                yield (row, column), Recipe(runs, "eval/test/top1")


# Row and column of table 8 -> model.posemb, model.posemb_where.
_POSEMBS = {"None": "none", "1-D": "learned", "2-D": "learned2d", "Relative": "relative"}
_PLACES = {"Stem": "stem", "Every layer": "layers", "Every layer, shared": "layers_shared"}


def _table_8(paper: Table, base: Run, metric: str, seeds: int) -> Iterator[tuple[Key, Recipe]]:
    """The same run with another position embedding in each cell."""
    for row, column in paper.cells:
        kind, where = _POSEMBS[row], _PLACES[column]
        own = (f"--config.model.posemb={kind}", f"--config.model.posemb_where={where}")
        runs = tuple(
            Run(
                f"{base.workdir}/{kind}_{where}/seed{seed}",
                base.config,
                (*base.overrides, *own, f"--config.seed={seed}"),
            )
            for seed in range(seeds)
        )
        yield (row, column), Recipe(runs, metric, percent=False)


def _table_8_paper(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    base = Run("posemb/JFT", "configs/vit_jft.py:ViT-B/16,fewshot")
    return _table_8(paper, base, "eval/imagenet/5shot", 1)


def _table_8_small(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    base = Run("small/posemb", "configs/small.py:ViT")
    return _table_8(paper, base, "eval/test/top1", len(SEEDS))


_Maker = Callable[[Table], Iterator[tuple[Key, Recipe]]]
_PAPER: dict[int, _Maker] = {
    2: _table_2,
    5: _table_5,
    6: _table_6,
    7: _table_7,
    8: _table_8_paper,
    9: _table_9,
}
SMALL: dict[int, _Maker] = {8: _table_8_small}

"""The runs that fill each table cell at the scale of the paper, by its protocols."""

import dataclasses
from collections.abc import Callable, Iterator

from vit_jax.evaluate.frozen import vtab
from vit_jax.paper.runs import DATASETS, SEEDS, Recipe, Run, posemb_cells
from vit_jax.paper.tables import Key, Table, table


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


def _table_8_paper(paper: Table) -> Iterator[tuple[Key, Recipe]]:
    base = Run("posemb/JFT", "configs/vit_jft.py:ViT-B/16,fewshot")
    return posemb_cells(paper, base, "eval/imagenet/5shot", 1)


TABLES: dict[int, Callable[[Table], Iterator[tuple[Key, Recipe]]]] = {
    2: _table_2,
    5: _table_5,
    6: _table_6,
    7: _table_7,
    8: _table_8_paper,
    9: _table_9,
}

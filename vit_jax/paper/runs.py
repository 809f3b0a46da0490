"""Training runs, and recipes: the runs that fill a table cell."""

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.paper.tables import Key, Table

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


# Row and column of table 8 -> model.posemb, model.posemb_where.
_POSEMBS = {"None": "none", "1-D": "learned", "2-D": "learned2d", "Relative": "relative"}
_PLACES = {"Stem": "stem", "Every layer": "layers", "Every layer, shared": "layers_shared"}


def posemb_cells(paper: Table, base: Run, metric: str, seeds: int) -> Iterator[tuple[Key, Recipe]]:
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

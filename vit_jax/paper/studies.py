"""Studies of the paper's claims with small models on real images, over three seeds.

Every run is a `vit_jax train` of configs/small.py. Runs are shared between studies, and with
`vit_jax tables 8 --scale=small`.
"""

import dataclasses
import datetime
import os
import platform
import re
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vit_jax.paper.recipes import recipes
from vit_jax.paper.results import choice, measured
from vit_jax.paper.runs import SEEDS, Recipe, Run

METRIC = "eval/test/top1"
BASE = "configs/small.py:{}".format
CROP = "random_crop({0}, padding=1)|flip_lr|value_range(-1, 1)".format
DIGITS = (
    "--config.data.source=digits",
    "--config.data.split=train[:80%]",
    "--config.evals.test.split=train[80%:]",
    # No flips: a digit's mirror image is not a digit.
    "--config.data.pp=resize(16)|random_crop(16, padding=1)|value_range(-1, 1)",
)
# A sixth of the training set, in place of the test set.
DEV = ("--config.data.split=train[:50000]", "--config.evals.test.split=train[50000:]")
FAMILIES = ("ViT", "hybrid", "BiT")


@dataclasses.dataclass(frozen=True)
class Study:
    """A comparison of runs.

    Attributes:
      title: title of the table and the plot.
      cells: (curve, point on it) -> recipe that measures the point.
      x: label of the x axis if points are numbers; "": each curve is a separate panel.
    """

    title: str
    cells: dict[tuple[str, str], Recipe]
    x: str = ""


def seeded(
    workdir: str, family: str, *overrides: str, starts: Iterable[Run] | None = None
) -> tuple[Run, ...]:
    """The same run with each seed; with `starts`, each from the run there with the same seed."""
    each = tuple(starts) if starts else (None,) * len(SEEDS)
    return tuple(
        Run(f"{workdir}/seed{seed}", BASE(family), (*overrides, f"--config.seed={seed}"), start)
        for seed, start in zip(SEEDS, each)
    )


def examples(count: int) -> tuple[str, ...]:
    """Overrides for the length of a run, a tenth of it warm-up."""
    return (
        f"--config.total.examples={count}",
        f"--config.optimizer.warmup.examples={count // 10}",
    )


def base(family: str) -> tuple[Run, ...]:
    """Runs of the family's unchanged config, shared between studies and with table 8."""
    if family == "ViT":
        return recipes(8, "small")["1-D", "Stem"].runs
    return seeded(f"small/{family}", family)


def _model(**values: object) -> tuple[str, ...]:
    """Overrides of options of the model."""
    return tuple(f"--config.model.{name}={value}" for name, value in values.items())


# Beside the rows of table 8: rotary embeddings, local and sparse attention.
OTHER_POSITIONS = {
    "Rotary": _model(posemb="none", rotary="centred"),
    "None, window(3)": _model(posemb="none", attention_kind="window(3)"),
    "None, window(3) with offsets": _model(
        posemb="none", attention_kind="window(3, relative=True)"
    ),
    "1-D, block(2)": _model(attention_kind="block(2)"),
    "1-D, window(3)": _model(attention_kind="window(3)"),
    "1-D, sparse": _model(attention_kind="sparse(pattern='strided')"),
}


def positions() -> Study:
    """Table 8, its first column also on digits, and OTHER_POSITIONS on Fashion-MNIST."""
    cells = {}
    for (kind, place), recipe in recipes(8, "small").items():
        cells["Fashion-MNIST: " + place, kind] = dataclasses.replace(recipe, percent=True)
        if place == "Stem":
            own = [word for word in recipe.runs[0].overrides if "posemb" in word]
            runs = seeded(f"small/digits/{kind}", "ViT", *own, *DIGITS)
            cells["digits: Stem", kind] = Recipe(runs, METRIC)
    for kind, other in OTHER_POSITIONS.items():
        folder = "small/positions/" + _folder(kind)
        cells["Fashion-MNIST: Stem", kind] = Recipe(seeded(folder, "ViT", *other), METRIC)
    return Study("Position embeddings (table 8)", cells)


def attention() -> Study:
    """Local and sparse attention on an 8x8 grid, and patches of 2 and of 4 pixels at one cost."""
    kinds = {
        "full": "full",
        "block(4)": "block(4)",
        "halo(4, 1)": "halo(4, 1)",
        "window(3)": "window(3)",
        "window(3) with offsets": "window(3, relative=True)",
        "sparse": "sparse(pattern='strided')",
    }
    small = (*_model(patch_size="(2,2)"), *examples(30_000))
    arms = {name: (*small, *_model(attention_kind=kind)) for name, kind in kinds.items()}
    # Patches of 2x2 pixels take 4.4 times the multiply-adds of an image.
    arms["full, 4x4 patches, 4.4 times the examples"] = examples(132_000)
    cells = {
        ("", name): Recipe(seeded(f"small/attention/{_folder(name)}", "ViT", *own), METRIC)
        for name, own in arms.items()
    }
    return Study("Attention kinds on 2x2 patches", cells)


def _folder(name: str) -> str:
    """A name for a folder: letters and digits, with underscores between them."""
    return re.sub(r"\W+", "_", name).strip("_")


def resolution() -> Study:
    """Fine-tuning at 1.5 times and twice the resolution (section 3.2)."""
    tuned = ("--config.optimizer.learning_rate=1e-3", *examples(30_000))
    # The classes stay the same, so the head is kept.
    keep, again = "--config.init_skip=()", "--config.init_skip=('posemb/.*',)"
    arms: dict[str, tuple[str, ...]] = {"stays at 16": (keep,)}
    for size in (24, 32):
        pp = f"--config.data.pp=resize({size}, antialias=True)|{CROP(size)}"
        arms[f"{size}, interpolated"] = (keep, pp)
        arms[f"{size}, positions anew"] = (again, pp)
    cells = {("", "16, pre-trained"): Recipe(base("ViT"), METRIC)}
    for name, own in arms.items():
        folder = "small/resolution/" + name.replace(", ", "_").replace(" ", "_")
        runs = seeded(folder, "ViT", *tuned, *own, starts=base("ViT"))
        cells["", name] = Recipe(runs, METRIC)
    return Study("Fine-tuning at a higher resolution (section 3.2)", cells)


def subsets() -> Study:
    """Families on growing parts of the training set, with the same number of steps (figure 4)."""
    cells = {}
    for percent in (2, 10, 25, 50):
        # The files are not sorted by class.
        part = f"--config.data.split=train[:{60_000 * percent // 100}]"
        for family in FAMILIES:
            runs = seeded(f"small/subsets/{family}/{percent}", family, part)
            cells[family, str(percent)] = Recipe(runs, METRIC)
    for family in FAMILIES:
        cells[family, "100"] = Recipe(base(family), METRIC)
    return Study("Top-1 over the size of the training set (figure 4)", cells, "% of 60,000 images")


def compute() -> Study:
    """Families of equal cost over the length of training (figure 5)."""
    cells = {}
    for count in (15_000, 30_000, 60_000, 120_000):
        for family in FAMILIES:
            runs = base(family)
            if count != 60_000:
                runs = seeded(f"small/compute/{family}/{count}", family, *examples(count))
            cells[family, str(count)] = Recipe(runs, METRIC)
    return Study("Top-1 over compute (figure 5)", cells, "examples, of 11 MFLOPs each")


def pooling() -> Study:
    """Class token and GAP, each at its best learning rate on a dev split (figure 9)."""
    cells = {}
    for head in ("token", "gap"):
        own, folder = f"--config.model.head={head}", f"small/pooling/{head}"
        choices = {
            f"--config.optimizer.learning_rate={rate}": f"{folder}/dev_{rate}"
            for rate in ("1e-3", "3e-3", "1e-2")
        }
        tried = tuple(
            (rate, Run(workdir, BASE("ViT"), (own, rate, *DEV)))
            for rate, workdir in choices.items()
        )
        cells["", head] = Recipe(seeded(folder, "ViT", own), METRIC, tried, METRIC)
    return Study("Class token and global average pooling (figure 9)", cells)


def masked() -> Study:
    """Masked patch prediction on all images, then fine-tuning on few labels (section 4.6)."""
    starts = seeded("small/masked/pretrained", "ViT", "--config.task=masked", *examples(120_000))
    cells = {}
    for labels in (300, 1200, 6000):
        few = (f"--config.data.split=train[:{labels}]", *examples(30_000))
        scratch = seeded(f"small/masked/scratch_{labels}", "ViT", *few)
        tuned = seeded(f"small/masked/tuned_{labels}", "ViT", *few, starts=starts)
        cells["from scratch", str(labels)] = Recipe(scratch, METRIC)
        cells["from masked patch prediction", str(labels)] = Recipe(tuned, METRIC)
    return Study("Masked patch prediction (section 4.6)", cells, "labelled images")


STUDIES: dict[str, Callable[[], Study]] = {
    study.__name__: study
    for study in (positions, attention, resolution, subsets, compute, pooling, masked)
}


def document(name: str, study: Study, folder: Path) -> dict[str, Any]:
    """The results of a study, as a document for JSON."""
    points = []
    for (curve, point), recipe in study.cells.items():
        ours = measured(recipe, folder)
        chosen = choice(recipe, folder)
        runs = [run for run in recipe.final(chosen) if isinstance(run, Run)]
        points.append(
            dict(
                curve=curve,
                point=point,
                mean=ours.value,
                std=ours.std,
                runs=ours.runs,
                chosen=chosen,
                values=[
                    measured(dataclasses.replace(recipe, runs=(run,), choices=()), folder).value
                    for run in runs
                ],
                commands=[run.command(folder) for run in runs],
            )
        )
    return dict(
        study=name,
        title=study.title,
        metric=f"{METRIC} in percent",
        **machine(),
        points=points,
    )


def machine() -> dict[str, Any]:
    """The date, hardware and versions of a measurement."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    versions = {name: version(name) for name in ("jax", "flax", "optax", "vit_jax")}
    return dict(
        date=datetime.date.today().isoformat(),
        hardware=f"{[*names, platform.machine()][0]}, {len(os.sched_getaffinity(0))} cores",
        versions=versions | dict(python=platform.python_version()),
    )

"""Studies of the paper's claims with small models on real images, over three or five seeds.

Every run is a `vit_jax train` of configs/small.py. Runs are shared between studies, and with
`vit_jax tables 8 --scale=small`.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from vit_jax.paper.recipes import recipes
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
# Five sixths of the training set; the rest is held out, to be used in place of the test set.
KEPT = ("--config.data.split=train[:50000]",)
HELD_OUT = ("--config.evals.test.split=train[50000:]",)
FIVE_SEEDS = (0, 1, 2, 3, 4)
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
    workdir: str,
    family: str,
    *overrides: str,
    starts: Sequence[Run] = (),
    seeds: Sequence[int] = SEEDS,
) -> tuple[Run, ...]:
    """The same run with each seed; with `starts`, each from the run there with the same seed."""
    return tuple(
        Run(f"{workdir}/seed{seed}", BASE(family), (*overrides, f"--config.seed={seed}"), start)
        for seed, start in zip(seeds, starts or (None,) * len(seeds))
    )


def chosen(
    workdir: str,
    family: str,
    *overrides: str,
    choices: Sequence[str],
    held_out: Sequence[str] = (*KEPT, *HELD_OUT),
    starts: Sequence[Run] = (),
    seeds: Sequence[int] = SEEDS,
) -> Recipe:
    """The run of `seeded` with the best of `choices`, overrides, by images that are held out."""
    tried = []
    for own in choices:
        words, start = (*overrides, own, *held_out), starts[0] if starts else None
        tried.append((own, Run(f"{workdir}/dev_{_folder(own)}", BASE(family), words, start)))
    runs = seeded(workdir, family, *overrides, starts=starts, seeds=seeds)
    return Recipe(runs, METRIC, tuple(tried), METRIC)


def rates(*values: str) -> list[str]:
    """Overrides for learning rates to choose from."""
    return [f"--config.optimizer.learning_rate={value}" for value in values]


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


# Sixteen times as many as in other studies. A run twice as long gains 1.1 points (`lengths`), so
# the few examples of a fine-tuning gain next to nothing by being more examples.
LONG = 960_000


def long_runs(
    count: int, seeds: Sequence[int] = FIVE_SEEDS, folder: str = "lengths", own: Sequence[str] = ()
) -> tuple[Run, ...]:
    """Runs of the ViT with a number of examples, on KEPT."""
    return seeded(f"small/{folder}/{count}", "ViT", *KEPT, *own, *examples(count), seeds=seeds)


def lengths() -> Study:
    """The ViT over the length of training: how much does a longer run gain?"""
    seeds = {480_000: SEEDS, LONG: FIVE_SEEDS}
    cells = {}
    for count in (120_000, 240_000, 480_000, LONG, 2 * LONG):
        cells["ViT", str(count)] = Recipe(long_runs(count, seeds.get(count, (0,))), METRIC)
    return Study("Top-1 over the length of training", cells, "examples")


def positions_long() -> Study:
    """Position embeddings whose order in `positions` is not the paper's, eight times as long."""
    rows = {
        "None": _model(posemb="none"),
        "1-D": (),
        "Relative": _model(posemb="relative"),
        "1-D, every layer": _model(posemb_where="layers"),
    }
    cells = {}
    for name, own in rows.items():
        folder = f"positions_long/{_folder(name)}" if own else "lengths"
        cells["480,000 examples", name] = Recipe(long_runs(480_000, SEEDS, folder, own), METRIC)
    return Study("Position embeddings after longer runs (table 8)", cells)


def resolution_emoji() -> Study:
    """As `resolution`, on emoji of 64 pixels; of benchmarks/emoji.py emoji --dev=facebook."""
    pictures = (
        "--config.data.source=emoji",
        "--config.data.split=train",
        "--config.evals.test.split=val",
        "--config.data.resident=False",
    )
    held_out = ("--config.evals.test.split=dev",)

    def seen(size: int) -> str:
        return f"--config.data.pp=decode|resize({size}, antialias=True)|{CROP(size)}"

    cells: dict[tuple[str, str], Recipe] = {}
    for count in (60_000, 120_000, 240_000, 480_000, LONG):
        seeds = SEEDS if count in (240_000, LONG) else SEEDS[:1]
        own = (*pictures, seen(16), *examples(count))
        runs = seeded(f"small/emoji/{count}", "ViT", *own, seeds=seeds)
        cells["", f"16, {count:,} examples"] = Recipe(runs, METRIC)

    def then(size: int, start: int, count: int, folder: str, choices: Sequence[str]) -> Recipe:
        return chosen(
            f"small/emoji/{folder}",
            "ViT",
            *pictures,
            seen(size),
            "--config.init_skip=()",
            *examples(count),
            choices=rates(*choices),
            held_out=held_out,
            starts=cells["", f"16, {start:,} examples"].runs,
        )

    for size in (16, 32, 64):
        few = then(size, 240_000, 20_000, f"then_{size}", ("3e-4", "1e-3", "3e-3"))
        cells["", f"240,000, then {size}"] = few
    for size in (16, 32):
        longer = then(size, LONG, 100_000, f"then_{size}_long", ("1e-3", "3e-3", "1e-2"))
        cells["", f"{LONG:,}, then {size}, 100,000 examples"] = longer
    return Study("Fine-tuning emoji at a higher resolution (section 3.2)", cells)


def igpt() -> Study:
    """Linear probes of iGPT's layers beside the ViT, trained with labels at the same FLOPs."""
    # An image of 100 pixels takes 10.7 times the FLOPs of 16 patches.
    runs = seeded("small/igpt", "iGPT", *examples(45_000))
    names = {layer: f"iGPT, layer {layer}" for layer in range(7)} | {6: "iGPT, encoded pixels"}
    cells = {
        ("", name): Recipe(runs, f"eval/probe/layer{layer}/top1") for layer, name in names.items()
    }
    cells["", "ViT, with labels"] = Recipe(long_runs(480_000, SEEDS), METRIC)
    return Study("iGPT by layer, and the ViT", cells)


def resolution() -> Study:
    """Fine-tuning a ViT that was trained long at a higher resolution (section 3.2).

    Once with the same number of examples, once with the same FLOPs as those at 32 pixels, and once
    for five epochs of the training images (the paper's take eight).
    """
    starts = long_runs(LONG)

    def at(size: int, skip: str = "()") -> tuple[str, ...]:
        pp = f"resize({size}, antialias=True)|{CROP(size)}"
        return (*KEPT, f"--config.init_skip={skip}", f"--config.data.pp={pp}")

    # Examples of 16, 24 and 28 pixels that take the FLOPs of 20,000 of 32 pixels.
    equal = {16: 90_000, 24: 38_500, 28: 27_000, 32: 20_000}
    # The classes stay the same, so the head is kept.
    kinds = {"interpolated": "()", "anew": "('posemb/.*',)"}
    cells = {("same examples", "16, pre-trained"): Recipe(starts, METRIC)}
    for size, count in equal.items():
        for kind, skip in kinds.items():
            for curve, length in {"same examples": 20_000, "same FLOPs": count}.items():
                cells[curve, f"{size}, {kind}"] = chosen(
                    f"small/resolution/{size}_{kind}_{length}",
                    "ViT",
                    *at(size, skip),
                    *examples(length),
                    choices=rates("3e-4", "1e-3", "3e-3"),
                    held_out=HELD_OUT,
                    starts=starts,
                    seeds=FIVE_SEEDS,
                )
    for size in (28, 24, 16):
        cells["250,000 examples", f"{size}, interpolated"] = chosen(
            f"small/resolution/{size}_long",
            "ViT",
            *at(size),
            *examples(250_000),
            choices=rates("3e-4", "1e-3", "3e-3"),
            held_out=HELD_OUT,
            starts=starts,
        )
    return Study("Fine-tuning at a higher resolution (section 3.2)", cells)


def subsets() -> Study:
    """Families on growing parts of the training set, each for ten epochs of the whole (figure 4).

    The weight decay is chosen for each size. Beside the images' own classes, 5-shot accuracy on
    digits tests the features.
    """
    cells = {}
    for percent in (1, 2, 5, 10, 25, 50, 100):
        # The files are not sorted by class.
        part = f"--config.data.split=train[:{50_000 * percent // 100}]"
        for family in FAMILIES:
            recipe = chosen(
                f"small/subsets/{family}/{percent}",
                f"{family},fewshot",
                part,
                *examples(500_000),
                choices=[f"--config.optimizer.weight_decay={value}" for value in ("0.05", "0.5")],
                held_out=HELD_OUT,
            )
            cells[family, str(percent)] = recipe
            features = dataclasses.replace(recipe, metric="eval/fewshot/5shot")
            cells[f"{family}, 5-shot digits", str(percent)] = features
    return Study("Top-1 over the size of the training set (figure 4)", cells, "% of 50,000 images")


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
    """Class token, GAP and MAP (figure 9).

    Each at its best learning rate on held-out images, and eight times as long at 3e-3.
    """
    cells = {}
    for head in ("token", "gap", "map"):
        own = _model(head=head)
        cells["60,000 examples", head] = chosen(
            f"small/pooling/{head}",
            "ViT",
            *own,
            choices=rates("1.3e-3", "2e-3", "3e-3", "4.5e-3", "6.8e-3"),
            seeds=FIVE_SEEDS,
        )
        if head == "token":
            longer = long_runs(480_000, SEEDS)
        else:
            longer = long_runs(480_000, SEEDS, f"pooling/{head}", own)
        cells["480,000 examples", head] = Recipe(longer, METRIC)
    return Study("Class token, global average and attention pooling (figure 9)", cells)


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
    each.__name__: each
    for each in (
        positions,
        positions_long,
        attention,
        igpt,
        pooling,
        masked,
        lengths,
        resolution,
        resolution_emoji,
        subsets,
        compute,
    )
}

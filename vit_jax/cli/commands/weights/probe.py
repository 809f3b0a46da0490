"""Accuracy of a classifier fitted to frozen features of all training images.

  vit_jax probe --checkpoint=workdirs/b16 --source=tfds:cifar10 --method=knn
  vit_jax probe --checkpoint=workdirs/b16 --source=tfds:cifar10 --method=linear --c=0.01,0.1,1
  vit_jax probe --checkpoint=facebook/dinov2-base --source=tfds:imagenet2012 --method=sweep \\
      --train=train --test=validation --batch-size=1024
  vit_jax probe --checkpoint=openai/imagegpt-small --source=tfds:cifar10 --layers=all

linear: logistic regression; knn: the nearest training images vote, weighted by cosine
similarity; sweep: the linear evaluation of DINOv2, which trains heads of many learning rates at
once, on class tokens of the last blocks and the mean of the patches. --layers=all: accuracy by
layer, of the tokens that each block's attention sees, pooled as for the head (iGPT: their mean).
"""

import argparse
import json
from typing import Any

from vit_jax.cli.arguments import whole
from vit_jax.cli.features import add_feature_arguments, evaluate_features, numbers
from vit_jax.cli.processes import print_once
from vit_jax.errors import InputError
from vit_jax.text import printable

_SWEEP = ("val", "learning_rates", "blocks", "steps", "train_pp")  # its own arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_feature_arguments(parser)
    parser.add_argument(
        "--method", choices=("linear", "knn", "sweep"), default="linear", help="(linear)"
    )
    parser.add_argument(
        "--c",
        type=numbers(float),
        default=(1.0,),
        metavar="C,C",
        help="linear: inverse penalty; with several, the best on a tenth of the images (1)",
    )
    parser.add_argument(
        "--layers",
        metavar="all|N,N",
        help="linear: probe these layers; 0: input of the first block, the last: encoded tokens",
    )
    parser.add_argument(
        "--k", type=whole(), default=20, help="knn: number of neighbours (%(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.07,
        help="knn: temperature of the votes (%(default)s)",
    )
    parser.add_argument(
        "--val",
        metavar="SPLIT",
        help="sweep: split that chooses the best head; default: the test split, as DINOv2 does",
    )
    parser.add_argument(
        "--learning-rates",
        type=numbers(float),
        metavar="RATE,RATE",
        help="sweep: learning rates, times batch size / 256 (13 from 1e-5 to 0.1)",
    )
    parser.add_argument(
        "--blocks",
        type=numbers(int),
        metavar="N,N",
        help="sweep: numbers of last blocks whose class tokens are taken (1,4)",
    )
    parser.add_argument("--steps", type=int, help="sweep: number of training steps (12500)")
    parser.add_argument(
        "--train-pp", help="sweep: preprocessing of training images (a random box and flips)"
    )


def run(args: argparse.Namespace) -> int:
    """Fits and tests; returns the exit status."""
    given = {name: vars(args)[name] for name in _SWEEP if vars(args)[name] is not None}
    if given and args.method != "sweep":
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{flags} needs --method=sweep; --method={args.method} does not use it")
    if args.layers is not None and args.method != "linear":
        raise InputError(f"--layers needs --method=linear; --method={args.method} does not use it")
    if args.layers == "":
        raise InputError("--layers is empty; give all, or numbers such as 0,6,12")
    if args.method == "linear":
        result = evaluate_features(args, "probe", c=args.c, layers=args.layers or "")
    elif args.method == "knn":
        result = evaluate_features(args, "knn", k=args.k, temperature=args.temperature)
    else:
        result = evaluate_features(args, "sweep", **given)
    if args.json:
        text = json.dumps(dict(result, method=args.method))
    else:
        where = printable(f"{result['source']} ({result['test']})")
        of = f"{result['examples']:,} images of {where}"
        text = f"{args.method}: top-1 {result['top1']:.2%} on {of}"
        if args.layers:
            rows = [f"{row['layer']:>5}{row['top1']:>10.2%}" for row in result["layers"]]
            text = "\n".join(
                [f"layer{'top-1':>10}", *rows, f"{text}, the best layer: {result['layer']}"]
            )
        if args.method == "sweep":
            text = f"{_table(result)}\n{text}, {_shown(result['best'])}"
    print_once(text)
    return 0


def _table(result: dict[str, Any]) -> str:
    """A row for each learning rate, a column for each kind of head: top-1 on the split `val`."""
    columns = list(dict.fromkeys((row["blocks"], row["mean_patches"]) for row in result["heads"]))
    rates = list(dict.fromkeys(row["learning_rate"] for row in result["heads"]))
    found = {
        (row["learning_rate"], row["blocks"], row["mean_patches"]): row["val_top1"]
        for row in result["heads"]
    }
    titles = [f"{blocks} block" + "s" * (blocks > 1) + " + mean" * mean for blocks, mean in columns]
    lines = [f"{'rate':>8}" + "".join(f"{title:>17}" for title in titles)]
    for rate in rates:
        cells = "".join(f"{found[rate, *column]:>17.2%}" for column in columns)
        lines.append(f"{rate:>8g}{cells}")
    return "\n".join([f"top-1 on {printable(result['val'])}", *lines])


def _shown(best: dict[str, Any]) -> str:
    seen = "class token of the last block"
    if best["blocks"] > 1:
        seen = f"class tokens of the last {best['blocks']} blocks"
    mean = " and mean of patches" if best["mean_patches"] else ""
    return f"by {seen}{mean} at learning rate {best['learning_rate']:g}"

"""Accuracy of a classifier fitted to frozen features of all training images.

  vit_jax probe --checkpoint=workdirs/b16 --source=tfds:cifar10 --method=knn
  vit_jax probe --checkpoint=workdirs/b16 --source=tfds:cifar10 --method=linear --c=0.01,0.1,1

linear: logistic regression; knn: the nearest training images vote, weighted by cosine
similarity.
"""

import argparse
import json

from vit_jax.cli.arguments import whole
from vit_jax.cli.features import add_feature_arguments, evaluate_features, numbers
from vit_jax.cli.processes import print_once
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_feature_arguments(parser)
    parser.add_argument("--method", choices=("linear", "knn"), default="linear", help="(linear)")
    parser.add_argument(
        "--c",
        type=numbers(float),
        default=(1.0,),
        metavar="C,C",
        help="linear: inverse penalty; with several, the best on a tenth of the images (1)",
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


def run(args: argparse.Namespace) -> int:
    """Fits and tests; returns the exit status."""
    if args.method == "linear":
        result = evaluate_features(args, "probe", c=args.c)
    else:
        result = evaluate_features(args, "knn", k=args.k, temperature=args.temperature)
    if args.json:
        text = json.dumps(dict(result, method=args.method))
    else:
        where = printable(f"{result['source']} ({result['test']})")
        of = f"{result['examples']:,} images of {where}"
        text = f"{args.method}: top-1 {result['top1']:.2%} on {of}"
    print_once(text)
    return 0

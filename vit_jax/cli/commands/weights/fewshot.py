"""Accuracy of a linear classifier on frozen features, fitted to a few images of each class.

  vit_jax fewshot --checkpoint=workdirs/b16 --source=tfds:oxford_iiit_pet --shots=5,10
  vit_jax fewshot --checkpoint=B_16.npz --source=tfds:imagenet2012 --test=validation

Ridge regression in closed form; prints the mean and standard deviation over random choices of
the images. Only the chosen images and the test images are read.
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
    parser.add_argument(
        "--shots", type=numbers(int), default=(1, 5, 10, 25), metavar="N,N", help="images per class"
    )
    parser.add_argument(
        "--seeds", type=whole(), default=3, help="number of random choices (%(default)s)"
    )
    parser.add_argument(
        "--l2",
        type=lambda text: text if text == "sweep" else numbers(float)(text),
        default=(1024.0,),
        metavar="L2",
        help="ridge penalty; with several (1,1024, or sweep: 2^-10 to 2^19) the best on the test "
        "images is reported (1024)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns the exit status."""
    from vit_jax.evaluate.frozen.fewshot import L2_SWEEP

    l2 = L2_SWEEP if args.l2 == "sweep" else args.l2
    found = evaluate_features(args, "fewshot", shots=args.shots, seeds=args.seeds, l2=l2)
    if args.json:
        keys = ("source", "train", "test", "examples", "classes", "shots")
        print_once(json.dumps({key: found[key] for key in keys}))
        return 0
    where = printable(found["source"])
    lines = [f"{where}, {found['examples']:,} test images, {found['classes']} classes"]
    for shots, result in found["shots"].items():
        penalty = f", l2 {result['l2']:g}" if len(l2) > 1 else ""
        lines.append(f"{shots:>3}-shot {result['top1']:.2%} +- {result['std']:.2%}{penalty}")
    print_once("\n".join(lines))
    return 0

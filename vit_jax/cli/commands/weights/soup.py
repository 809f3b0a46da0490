"""Average the weights of several runs of one model into one weight file (a model soup).

vit_jax soup workdirs/pets_1 workdirs/pets_2 workdirs/pets_3 pets.npz
vit_jax soup workdirs/pets_* pets.safetensors --greedy --source=folder:pets --split='train[90%:]'

Runs should start from the same pre-trained weights. --greedy adds a run only if the accuracy of
the average does not fall, on images that are not those of the final test.
"""

import argparse
import json
import os

from vit_jax.cli.arguments import (
    add_batch_size_argument,
    add_data_dir_argument,
    add_format_argument,
    add_json_argument,
    add_pp_argument,
    add_source_argument,
    add_split_argument,
    add_target_argument,
    add_use_ema_argument,
)
from vit_jax.cli.startup import keep_compilations
from vit_jax.errors import InputError
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=os.path.expanduser,
        metavar="RUN",
        help="workdirs, checkpoints or weight files, at least two",
    )
    add_target_argument(parser, "x.npz, x.safetensors or a directory, as for `convert`")
    add_format_argument(parser, "as for `convert`")
    parser.add_argument(
        "--greedy", action="store_true", help="leave runs out that lower the accuracy"
    )
    greedy = parser.add_argument_group("for --greedy")
    add_source_argument(greedy, "the first run's own evaluation")
    add_split_argument(greedy, default="as the source")
    add_pp_argument(greedy, "the runs'")
    add_data_dir_argument(greedy, "as in the first run")
    add_batch_size_argument(greedy)
    add_use_ema_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Averages; returns the exit status."""
    keep_compilations()
    from vit_jax.evaluate.soup import greedy_soup, uniform_soup
    from vit_jax.weights import check_target, write

    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; it must be at least 1")
    check_target(args.target, format=args.format)
    if args.greedy:
        soup = greedy_soup(
            args.runs,
            use_ema=args.use_ema,
            source=args.source,
            split=args.split,
            pp=args.pp,
            data_dir=args.data_dir,
            batch_size=args.batch_size,
        )
    else:
        for name in ("source", "split", "pp"):
            if vars(args)[name]:
                raise InputError(f"--{name} goes with --greedy; a uniform soup reads no images")
        soup = uniform_soup(args.runs, use_ema=args.use_ema)
    lines = write(soup.weights, args.target, format=args.format)
    if args.json:
        runs = [vars(ingredient) for ingredient in soup.ingredients]
        print(json.dumps(dict(runs=runs, top1=soup.top1, report=lines), indent=2))
        return 0
    for one in soup.ingredients:
        accuracy = "" if one.top1 is None else f", top-1 {one.top1:.2%}"
        print(printable(f"{'used' if one.used else 'left out'}: {one.path}{accuracy}"))
    if soup.top1 is not None:
        print(f"top-1 {soup.top1:.2%} of the average")
    print("\n".join(map(printable, lines)))
    return 0

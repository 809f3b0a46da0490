"""The paper's tables with our numbers beside them, and the runs that fill them.

  vit_jax tables 6
  vit_jax tables 5 --commands --topology=v5p:8x8x8
  vit_jax tables 8 --scale=small --run --workdir=workdirs/tables
  vit_jax tables 5 --run --slurm --row="ImageNet-21k: CIFAR-10" --column=ViT-B/16 > job.sh

Values that need no training are computed; others come from finished runs below --workdir. For
empty cells, the table says which command does the runs, which data they read, and what they cost
on a slice of TPUs or on GPUs: their FLOPs, without evaluations, at an assumed share of the peak
speed.
--run trains the missing ones, one after another, and can be resumed; with --slurm it prints
a batch script for the runs that can start now.
"""

import argparse
import contextlib
import json
import os
from pathlib import Path

from vit_jax.cli.arguments import add_json_argument, add_mfu_argument, whole
from vit_jax.cli.outputs import check_file, check_folder
from vit_jax.cli.progress import Watching
from vit_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("number", nargs="?", type=whole(), help="1 to 9; default: all")
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        default="workdirs/tables",
        help="folder of the runs (%(default)s)",
    )
    parser.add_argument(
        "--scale",
        default="paper",
        help="paper, or small: small models on Fashion-MNIST and "
        "digits in the place of the paper's",
    )
    parser.add_argument("--row", help="with --run: only this row")
    parser.add_argument("--column", help="with --run: only this column")
    parser.add_argument("--run", action="store_true", help="train the missing runs")
    parser.add_argument("--slurm", action="store_true", help="with --run: print a batch script")
    parser.add_argument(
        "--commands", action="store_true", help="list the commands of all empty cells"
    )
    parser.add_argument(
        "--topology",
        metavar="CHIPS:SHAPE",
        default="v5e:16x16",
        help="TPUs or GPUs on which missing runs are priced, e.g. h100:8x8 (%(default)s)",
    )
    add_mfu_argument(parser)
    parser.add_argument(
        "--plot",
        type=os.path.expanduser,
        metavar="FILE",
        help="PNG of figure 3 (table 5) or 5 (table 6)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints or fills tables; returns the exit status."""
    from vit_jax.paper import cost, render, results, runner
    from vit_jax.paper.small_scale import TABLES as SMALL
    from vit_jax.paper.tables import TABLES, table

    numbers = [args.number] if args.number is not None else list(TABLES)
    for flag in ("run", "row", "column", "plot"):
        if getattr(args, flag) and args.number is None:
            raise InputError(f"--{flag} needs the number of a table")
    for flag in ("slurm", "row", "column"):
        if getattr(args, flag) and not args.run:
            raise InputError(f"--{flag} needs --run")
    if args.plot:
        render.check_plot(args.number)
        check_file(args.plot, "--plot")
    if args.scale == "small" and args.number is None:
        numbers = list(SMALL)
    check_folder(args.workdir, "--workdir")
    priced_on = cost.find_slice(args.topology, args.mfu)
    folder = Path(args.workdir)
    if args.run:
        table(args.number)
        cells = runner.select(args.number, args.row, args.column)
        if args.slurm:
            print(runner.slurm_script(args.number, cells, folder, args.scale), end="")
            return 0
        with contextlib.closing(Watching()) as watch:
            runner.run_missing(args.number, cells, folder, args.scale, watch)
    documents = [results.document(number, folder, args.scale) for number in numbers]
    for document in documents:
        cost.add(document, folder, priced_on if args.scale == "paper" else None)
    if args.plot:
        render.plot(documents[0], Path(args.plot))
    if args.json:
        print(json.dumps(documents[0] if args.number is not None else documents, indent=2))
    else:
        most = None if args.commands else 2
        print("\n\n".join(render.markdown(document, most) for document in documents))
    return 0

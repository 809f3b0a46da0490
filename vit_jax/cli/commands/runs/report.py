"""Write a page about a run, or about several side by side: one HTML file that needs no other.

  vit_jax report workdirs/pets
  vit_jax report workdirs/small workdirs/large --output=compared.html

Curves, results, options that differ from the default, time, hardware, and the commands to go on.
The best checkpoint is evaluated on the run's own test images for the confusion matrix, the worst
errors and attention maps. Unfinished and damaged runs give a page, too, which says what is missing.
"""

import argparse
import json
import os

from vit_jax.cli.arguments import add_json_argument, whole
from vit_jax.cli.outputs import check_file
from vit_jax.cli.startup import keep_compilations
from vit_jax.errors import InputError
from vit_jax.files import expand, write_atomic
from vit_jax.text import printable, reason

IMAGES = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "workdirs", type=os.path.expanduser, nargs="+", metavar="WORKDIR", help="workdirs of runs"
    )
    parser.add_argument(
        "--output",
        type=os.path.expanduser,
        metavar="FILE.html",
        help="the page; default: report.html in the workdir, or here for several",
    )
    parser.add_argument(
        "--images",
        type=whole(1),
        default=IMAGES,
        help="evaluate at most this many images of each run (%(default)s)",
    )
    parser.add_argument(
        "--no-evaluate",
        dest="evaluate",
        action="store_false",
        help="leave out confusion, errors and attention, which need data and weights",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the page; returns the exit status."""
    several = len(args.workdirs) > 1
    output = args.output or ("report.html" if several else f"{args.workdirs[0]}/report.html")
    if args.output:
        check_file(output, "--output")
    keep_compilations()
    from vit_jax.report.run import distinct, read_run

    runs = distinct([read_run(workdir) for workdir in args.workdirs])
    check_file(output, "--output")
    from vit_jax.report.look import look, without
    from vit_jax.report.page import page

    looks = [
        look(each, args.images) if args.evaluate else without("left out by --no-evaluate")
        for each in runs
    ]
    try:
        write_atomic(expand(output), page(runs, looks))
    except OSError as error:
        raise InputError(f"--output={output}: cannot be written: {reason(error)}") from error
    if args.json:
        told = [
            dict(
                workdir=each.workdir,
                status=each.status,
                step=each.step,
                total=each.total,
                notes=[*each.notes, *dict.fromkeys(found.missing.values())],
            )
            for each, found in zip(runs, looks)
        ]
        print(json.dumps(dict(output=output, runs=told), indent=2))
        return 0
    for each, found in zip(runs, looks):
        print(f"{printable(each.workdir)}: {each.status}, step {each.step:,}")
        for line in (*each.notes, *(f"no {part}: {why}" for part, why in found.missing.items())):
            print(f"  {printable(line)}")
    print(f"wrote {printable(output)}, {os.path.getsize(output) / 2**20:.2f} MiB")
    return 0

"""Pre-train or fine-tune a model.

  vit_jax train --config=configs/fashion_mnist.py --workdir=workdirs/fashion_mnist

  vit_jax train --config=configs/fashion_mnist.py --dry-run

Started again with the same workdir, a run continues from its last checkpoint.
On several machines every process runs the same command (see docs/launch.md).
Exit status: 0 done, 2 wrong input, 75 stopped by SIGTERM or Ctrl-C with its state saved, 70
ended by its watchdog, 130 stopped at once by a second Ctrl-C, 1 anything else.
"""

import argparse
import json
import os
import time
from typing import Any

from vit_jax.cli.arguments import (
    add_config_argument,
    add_dry_run_argument,
    add_json_argument,
    add_quiet_argument,
    add_workdir_argument,
    be_quiet,
)
from vit_jax.cli.processes import add_process_arguments, join_processes, print_once
from vit_jax.cli.startup import import_quickly, keep_compilations
from vit_jax.config_files import load_config
from vit_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config_argument(parser)
    add_workdir_argument(parser)
    parser.add_argument(
        "--compiled",
        type=os.path.expanduser,
        metavar="FILE",
        help="start with the step that `vit_jax plan --save=FILE` compiled; a file of your own",
    )
    parser.add_argument(
        "--check-network",
        action="store_true",
        help="measure the network first, as --config.parallel.check_network=True",
    )
    add_dry_run_argument(parser)
    add_json_argument(parser, "the summary")
    add_quiet_argument(parser)
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    if not args.workdir and not args.dry_run:
        raise InputError("train needs --workdir=DIR, where its checkpoints and metrics go")
    for flag, given in (("--compiled", args.compiled), ("--check-network", args.check_network)):
        if given and args.dry_run:
            raise InputError(f"{flag} has no effect with --dry-run: leave one of them out")
    started = time.monotonic()
    if args.quiet:
        be_quiet()
    keep_compilations()
    join_processes(args)
    config = load_config(args.config, args.overrides)
    if args.check_network:
        config.parallel.check_network = True
    if args.dry_run:
        import_quickly("vit_jax.cli.configs.dry_run").show(
            config, args.workdir or None, as_json=args.json
        )
        return 0
    loop = import_quickly("vit_jax.train.loop")
    arrange = None
    if config.parallel.layout == "auto":
        arrange = import_quickly("vit_jax.plan.layouts.auto").arrange
    summary = loop.train(
        config, args.workdir, started=started, compiled=args.compiled, arrange=arrange
    )
    if args.json:
        print_once(json.dumps(summary))
    elif args.quiet:
        print_once(shown_summary(summary))
    return 0


def shown_summary(summary: dict[str, Any]) -> str:
    """The summary of a run in one line: its steps, time, last loss and evaluations."""
    values = [
        f"{name} {value:.4g}"
        for name, value in summary["metrics"].items()
        if value is not None and (name == "train/loss" or name.startswith("eval/"))
    ]
    done = f"{summary['steps']:,} steps done in {summary['goodput']['wall']:,.0f} s"
    return ", ".join([done, *values])

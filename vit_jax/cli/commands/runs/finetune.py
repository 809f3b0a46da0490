"""Fine-tune weights on your own images; everything that is not given is chosen.

  vit_jax finetune google/vit-base-patch16-224-in21k photos
  vit_jax finetune B_16.npz csv:labels.csv --image-size=384 --epochs=20
  vit_jax finetune workdirs/pretrained photos --sweep
  vit_jax finetune B_16.npz photos --dry-run

WEIGHTS is a hub id, a weight file, a workdir or a checkpoint. DATA is a data source, such as
folder:photos, or a folder of class folders. Each choice is printed as the argument that would
make it, --config.OPTION=VALUE; so is the `vit_jax train` command that this one stands for. The
same command again continues. docs/finetuning.md has the rules.
"""

import argparse
import json
import time

from vit_jax.cli.arguments import (
    add_data_argument,
    add_dry_run_argument,
    add_json_argument,
    add_quiet_argument,
    add_weights_argument,
    add_workdir_argument,
    be_quiet,
    whole,
)
from vit_jax.cli.processes import add_process_arguments, join_processes, print_once
from vit_jax.cli.startup import import_quickly, keep_compilations
from vit_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_weights_argument(parser, "weights", "WEIGHTS")
    add_data_argument(parser, "data")
    add_workdir_argument(parser, "workdirs/WEIGHTS-DATA")
    parser.add_argument("--epochs", type=float, help="length of the run; default: by the images")
    parser.add_argument("--image-size", type=whole(1), help="side in pixels; default: the weights'")
    parser.add_argument(
        "--method",
        default="full",
        help="what is trained: full (everything), lora, bias, head, or probe (the head, as in a "
        "linear evaluation)",
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="first choose the learning rate and layer decay with short runs on held-out images",
    )
    parser.add_argument(
        "--jobs",
        type=whole(1),
        default=1,
        help="--sweep: runs at a time, each on its share of the GPUs or cores (%(default)s)",
    )
    add_dry_run_argument(parser)
    add_json_argument(parser, "the summary")
    add_quiet_argument(parser)
    parser.set_defaults(config="")  # so that --config.OPTION=VALUE is taken
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes; returns the exit status."""
    if args.sweep and args.dry_run:
        raise InputError("--dry-run trains nothing, --sweep does; give one of them")
    started = time.monotonic()
    if args.quiet:
        be_quiet()
    keep_compilations()
    join_processes(args)
    run = import_quickly("vit_jax.finetune.run").prepare(
        args.weights,
        args.data,
        workdir=args.workdir,
        epochs=args.epochs,
        image_size=args.image_size,
        method=args.method,
        sweep=args.sweep,
        jobs=args.jobs,
        overrides=args.overrides,
    )
    if args.dry_run:
        import_quickly("vit_jax.cli.configs.dry_run").show(
            run.config, run.workdir, as_json=args.json
        )
        return 0
    loop = import_quickly("vit_jax.train.loop")
    summary = loop.train(run.config, run.workdir, started=started)
    from vit_jax.finetune.outcome import lines, outcome

    best = outcome(run.workdir)
    if args.json:
        print_once(json.dumps(dict(summary, outcome=best)))
    else:
        for line in lines(best):
            print_once(line)
    return 0

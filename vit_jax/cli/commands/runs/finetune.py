"""Fine-tune weights on your own images; everything that is not given is chosen.

  vit_jax finetune google/vit-base-patch16-224-in21k photos
  vit_jax finetune B_16.npz csv:labels.csv --image-size=384 --epochs=20
  vit_jax finetune workdirs/pretrained photos --sweep

WEIGHTS is a hub id, a weight file, a workdir or a checkpoint. DATA is a data source, such as
folder:photos, or a folder of class folders. Each choice is printed as the argument that would
make it, --config.OPTION=VALUE; so is the `vit_jax train` command that this one stands for. The
same command again continues. docs/finetuning.md has the rules.
"""

import argparse
import json
import logging
import os
import re
import shlex
import time
from pathlib import Path

from vit_jax.cli.arguments import add_quiet_argument, be_quiet, whole
from vit_jax.cli.processes import add_process_arguments, join_processes, print_once
from vit_jax.cli.startup import import_quickly, keep_compilations
from vit_jax.config_files import PREFIX, load_config

log = logging.getLogger("vit_jax.finetune")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "weights",
        type=os.path.expanduser,
        metavar="WEIGHTS",
        help="hub id, weight file, workdir or checkpoint",
    )
    parser.add_argument(
        "data",
        type=os.path.expanduser,
        metavar="DATA",
        help="data source, or a folder of class folders",
    )
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        default="",
        help="folder for checkpoints and metrics; default: workdirs/WEIGHTS-DATA",
    )
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
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_quiet_argument(parser)
    parser.set_defaults(config="")  # so that --config.OPTION=VALUE is taken
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tunes; returns the exit status."""
    started = time.monotonic()
    if args.quiet:
        be_quiet()
    keep_compilations()
    join_processes(args)
    from vit_jax.finetune.config import TOLD, Wanted
    from vit_jax.finetune.outcome import lines, outcome

    source = as_source(args.data)
    words = {word: word.removeprefix(PREFIX).partition("=") for word in args.overrides}
    told = {name: text for name, _, text in words.values() if name.startswith(TOLD)}
    overrides = [word for word, (name, _, _) in words.items() if name not in told]
    wanted = Wanted(
        args.weights, source, args.epochs, args.image_size, method=args.method, told=told
    )
    Wanted.parse(wanted.argument())  # which checks the values
    workdir = args.workdir or default_workdir(args.weights, source)
    if args.sweep:
        from vit_jax.finetune.sweep import sweep

        found = sweep(wanted, workdir, overrides, jobs=args.jobs)
        wanted, overrides = found.wanted, [*found.overrides, *overrides]
    spec = f"configs/images.py:{wanted.argument()}"
    command = ["vit_jax", "train", f"--config={spec}", f"--workdir={workdir}", *overrides]
    log.info("this is %s", shlex.join(command))
    config = load_config(spec, overrides)
    loop = import_quickly("vit_jax.train.loop")
    summary = loop.train(config, workdir, started=started)
    best = outcome(workdir)
    if args.json:
        print_once(json.dumps(dict(summary, outcome=best)))
    else:
        for line in lines(best):
            print_once(line)
    return 0


def as_source(text: str) -> str:
    """DATA as a data source: a folder is one with `folder:` before it."""
    from vit_jax.data.sources.opening import SOURCES

    kind = text.partition(":")[0]
    if kind in SOURCES or not os.path.isdir(os.path.expanduser(text)):
        return text
    return f"folder:{text}"


def default_workdir(weights: str, source: str) -> str:
    """workdirs/WEIGHTS-DATA, from the last part of each."""
    parts = (re.sub(r"[^\w.-]+", "-", Path(text).name).strip("-.") for text in (weights, source))
    return os.path.join("workdirs", "-".join(parts))

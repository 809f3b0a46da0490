"""Accuracy of a checkpoint on a data set, each example counted once.

vit_jax evaluate --checkpoint=workdirs/fashion_mnist
vit_jax evaluate --checkpoint=B_16.npz --source=tfds:imagenet2012 --split=validation
vit_jax evaluate --checkpoint=B_16.npz --protocol=real --source=tfds:imagenet2012 --labels=real.json

Protocols are for models with ImageNet's 1000 classes: real, v2 and objectnet.
"""

import argparse
import json
import os
from typing import Any

from vit_jax.cli.arguments import (
    add_batch_size_argument,
    add_checkpoint_argument,
    add_data_dir_argument,
    add_json_argument,
    add_tta_argument,
)
from vit_jax.cli.processes import add_process_arguments, join_processes, print_once
from vit_jax.cli.startup import keep_compilations
from vit_jax.errors import InputError
from vit_jax.jsonl import finite
from vit_jax.text import printable

SHOWN = 20  # classes whose average precision is printed; --json prints all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument("--source", help="data source; default: the run's own evaluation")
    parser.add_argument("--split", help="split in tfds syntax")
    parser.add_argument(
        "--protocol",
        help="real: ImageNet-ReaL's labels; v2: ImageNet-v2; objectnet: its classes in ImageNet",
    )
    parser.add_argument(
        "--labels", type=os.path.expanduser, help="real: real.json; objectnet: its folder mappings"
    )
    parser.add_argument("--pp", help="preprocessing; default: the checkpoint's")
    add_tta_argument(parser, "as in the run's own evaluation, else none")
    add_data_dir_argument(parser, "as in the run")
    add_batch_size_argument(parser)
    parser.add_argument(
        "--use-ema",
        action=argparse.BooleanOptionalAction,
        help="use the averaged parameters; default: as the run's own evaluation does, else no",
    )
    add_json_argument(parser)
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns the exit status."""
    keep_compilations()
    join_processes(args)
    options = dict(
        source=args.source,
        split=args.split,
        pp=args.pp,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        use_ema=args.use_ema,
        tta=args.tta,
    )
    if args.protocol:
        from vit_jax.evaluate.stored import evaluate_protocol

        result = evaluate_protocol(args.checkpoint, args.protocol, labels=args.labels, **options)
    elif args.labels:
        raise InputError("--labels goes with --protocol=real or --protocol=objectnet")
    else:
        from vit_jax.evaluate.stored import evaluate_checkpoint

        result = evaluate_checkpoint(args.checkpoint, **options)
    print_once(json.dumps(finite(result)) if args.json else _line(result))
    return 0


def _line(result: dict[str, Any]) -> str:
    loss = f", loss {result['loss']:.4f}" if "loss" in result else ""
    left_out = f"; {result['left_out']:,} without a label" if result.get("left_out") else ""
    where = printable(f"{result['source']} ({result['split']})")
    if "mean_average_precision" in result:
        loss += f", mean average precision {result['mean_average_precision']:.2%}"
    classes = [
        f"\n  {printable(name)}: " + ("no image has it" if value is None else f"{value:.2%}")
        for name, value in list(result.get("average_precision", {}).items())[:SHOWN]
    ]
    return (
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}{loss} "
        f"on {result['examples']:,} examples of {where}{left_out}" + "".join(classes)
    )

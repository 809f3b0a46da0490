"""Accuracy of a checkpoint on a data set, each example counted once.

vit_jax evaluate --checkpoint=workdirs/fashion_mnist
vit_jax evaluate --checkpoint=workdirs/fashion_mnist --split='test[:10%]' --confusion=confusion.png
vit_jax evaluate --checkpoint=workdirs/fashion_mnist --worst=errors --worst-count=50
vit_jax evaluate --checkpoint=B_16.npz --source=tfds:imagenet2012 --split=validation
vit_jax evaluate --checkpoint=B_16.npz --protocol=real --source=tfds:imagenet2012 --labels=real.json

Where an image has one class, it prints the accuracy by class, the calibration error, the classes
that are confused most often, and the worst errors. Where images have sets of classes, it prints
the average precision of each class.

Protocols are for models with ImageNet's 1000 classes: real, v2 and objectnet.
"""

import argparse
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from vit_jax.cli.arguments import (
    add_batch_size_argument,
    add_checkpoint_argument,
    add_data_dir_argument,
    add_json_argument,
    add_pp_argument,
    add_source_argument,
    add_split_argument,
    add_tta_argument,
    whole,
)
from vit_jax.cli.evaluations import as_json, as_text
from vit_jax.cli.outputs import check_file, folder_made
from vit_jax.cli.processes import add_process_arguments, join_and_share_cores, print_once
from vit_jax.cli.progress import Watching
from vit_jax.cli.startup import keep_compilations
from vit_jax.errors import InputError
from vit_jax.files import write_atomic

if TYPE_CHECKING:
    from vit_jax.evaluate.analysis.confusion import Details

WORST, MOST_WORST = 20, 10_000
CONFUSION_ENDINGS = (".png", ".csv", ".json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_checkpoint_argument(parser)
    add_source_argument(parser, "the run's own evaluation")
    add_split_argument(parser, default="as the source")
    parser.add_argument(
        "--protocol",
        help="real: ImageNet-ReaL's labels; v2: ImageNet-v2; objectnet: its classes in ImageNet",
    )
    parser.add_argument(
        "--labels", type=os.path.expanduser, help="real: real.json; objectnet: its folder mappings"
    )
    add_pp_argument(parser, "the checkpoint's")
    add_tta_argument(parser, "as in the run's own evaluation, else none")
    add_data_dir_argument(parser, "as in the run")
    add_batch_size_argument(parser)
    parser.add_argument(
        "--use-ema",
        action=argparse.BooleanOptionalAction,
        help="use the averaged parameters; default: as the run's own evaluation does, else no",
    )
    parser.add_argument(
        "--confusion",
        type=os.path.expanduser,
        metavar="FILE",
        help="file for the confusion matrix: .png (extra: figures), .csv or .json",
    )
    parser.add_argument(
        "--worst",
        type=os.path.expanduser,
        metavar="DIR",
        help="folder for pictures of the wrongly classified images with the highest losses, and "
        "index.csv, which lists them",
    )
    parser.add_argument(
        "--worst-count",
        type=whole(1, MOST_WORST),
        help=f"number of worst errors in DIR and with --json ({WORST})",
    )
    add_json_argument(parser)
    add_process_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns the exit status."""
    keep_compilations()
    join_and_share_cores(args)
    import jax

    needed = [
        flag
        for flag in ("confusion", "worst", "worst-count")
        if vars(args)[flag.replace("-", "_")] is not None
    ]
    if args.protocol and needed:
        raise InputError(f"--{needed[0]} goes without --protocol, whose images have several labels")
    if args.worst_count is not None and not (args.worst or args.json):
        raise InputError("--worst-count goes with --worst=DIR or --json")
    if args.labels and not args.protocol:
        raise InputError("--labels goes with --protocol=real or --protocol=objectnet")
    writes = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if writes and args.confusion:
            _check_confusion(args.confusion)
        if writes and args.worst:
            stack.enter_context(folder_made(args.worst, "--worst"))
        watch = stack.enter_context(contextlib.closing(Watching())) if writes else None
        result, details = _evaluate(args, f"--{needed[0]}" if needed else "", watch)
        if watch:
            watch.close()
        if writes and details:
            if args.confusion:
                _write_confusion(args.confusion, details, result)
            if args.worst:
                from vit_jax.figures.confusion import write_worst

                errors = result["worst"]
                write_worst(args.worst, errors, details.pictures(errors))
    print_once(json.dumps(as_json(result)) if args.json else as_text(result))
    return 0


def _evaluate(
    args: argparse.Namespace, needed: str, watch: Watching | None
) -> tuple[dict[str, Any], "Details | None"]:
    from vit_jax.evaluate.stored import evaluate_details, evaluate_protocol

    options = dict(
        source=args.source,
        split=args.split,
        pp=args.pp,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        use_ema=args.use_ema,
        tta=args.tta,
        watch=watch,
    )
    if args.protocol:
        found = evaluate_protocol(args.checkpoint, args.protocol, labels=args.labels, **options)
        return found, None
    worst = WORST if args.worst_count is None else args.worst_count
    return evaluate_details(args.checkpoint, worst=worst, needed=needed, **options)


def _check_confusion(file: str) -> None:
    if not file.endswith(CONFUSION_ENDINGS):
        raise InputError(f"--confusion={file}: the name must end in .png, .csv or .json")
    check_file(file, "--confusion")
    if file.endswith(".png"):
        from vit_jax.figures.draw import figure_class

        figure_class()


def _write_confusion(file: str, details: "Details", result: dict[str, Any]) -> None:
    matrix, names = details.matrix, details.names
    if file.endswith(".png"):
        from vit_jax.figures.confusion import save_confusion

        where = f"{result['source']} ({result['split']})"
        save_confusion(
            matrix, names, file, f"top-1 {result['top1']:.2%} on {result['examples']:,} of {where}"
        )
    elif file.endswith(".json"):
        write_atomic(file, json.dumps(dict(labels=list(names), confusion=matrix.tolist())))
    else:
        from vit_jax.cli.evaluations import confusion_csv

        write_atomic(file, confusion_csv(matrix, names))

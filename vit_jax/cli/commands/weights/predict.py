"""Classify image files.

vit_jax predict --checkpoint=workdirs/fashion_mnist shoe.png photos/ --topk=3
"""

import argparse
import json
import os
import sys

from vit_jax.cli.arguments import (
    add_checkpoint_argument,
    add_json_argument,
    add_tta_argument,
    add_use_ema_argument,
    whole,
)
from vit_jax.cli.startup import import_quickly, keep_compilations
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "images",
        type=os.path.expanduser,
        nargs="+",
        metavar="IMAGE",
        help="image files, folders, and patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        "--topk", type=whole(), default=5, help="classes shown per image (%(default)s)"
    )
    add_tta_argument(parser, "none")
    add_use_ema_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Predicts; returns the exit status, 2 where an image could not be read."""
    keep_compilations()
    predict = import_quickly("vit_jax.evaluate.predict").predict
    results = predict(
        args.checkpoint,
        args.images,
        topk=args.topk,
        use_ema=args.use_ema,
        tta=args.tta or "none",
    )
    if args.json:
        print(json.dumps(results, indent=2))
    unread = [result for result in results if "error" in result]
    for result in results if not args.json else ():
        if "error" in result:
            continue
        named = ", ".join(
            f"{printable(top['label'])} {top['probability']:.1%}" for top in result["top"]
        )
        print(f"{printable(result['path'])}: {named}")
    for result in unread:
        print(f"vit_jax: {printable(result['error'])}", file=sys.stderr)
    return 2 if unread else 0

"""Draw filters, position embeddings and attention of a ViT, a PNG each.

  vit_jax figures --checkpoint=workdirs/b16 --image=dog.jpg --output=figures
  vit_jax figures --checkpoint=B_16.npz --source=tfds:imagenet2012 --split=validation

filters.png and positions.png show the weights. distance.png (attention distance by depth) and
rollout.png (attention rollout) need images: files, or the first 128 images of a data set.
Needs `pip install 'vit_jax[figures]'`.
"""

import argparse
import dataclasses
import json
import os

from vit_jax.cli.arguments import (
    add_checkpoint_argument,
    add_data_dir_argument,
    add_json_argument,
    add_output_argument,
    add_use_ema_argument,
)
from vit_jax.cli.outputs import folder_made
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--image",
        type=os.path.expanduser,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="image files",
    )
    parser.add_argument("--source", help="data source instead of image files")
    parser.add_argument("--split", default="test", help="split of the source (%(default)s)")
    add_data_dir_argument(parser)
    add_output_argument(parser, "figures")
    add_use_ema_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draws; returns the exit status."""
    with folder_made(args.output, "--output"):
        from vit_jax.figures.draw import draw

        drawn = draw(
            args.checkpoint,
            args.output,
            images=args.image,
            source=args.source,
            split=args.split,
            data_dir=args.data_dir,
            use_ema=args.use_ema,
        )
    if args.json:
        print(json.dumps(dataclasses.asdict(drawn)))
        return 0
    for name, path in drawn.figures.items():
        print(f"{name:10} {printable(path)}")
    for name, reason in drawn.skipped.items():
        print(f"{name:10} not drawn: {printable(reason)}")
    return 0

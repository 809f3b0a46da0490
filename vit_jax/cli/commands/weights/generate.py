"""Complete images from their upper half by a model of pixels (iGPT), or draw new ones.

  vit_jax generate --checkpoint=workdirs/igpt photo.png --output=completed
  vit_jax generate --checkpoint=openai/imagegpt-small --samples=8 --top-k=40 --output=drawn

Writes a PNG for each image: the image in the model's colours, then its completions; without
images, drawn.png.
"""

import argparse
import json
import os
from pathlib import Path

from vit_jax.cli.arguments import (
    add_checkpoint_argument,
    add_json_argument,
    add_output_argument,
    add_use_ema_argument,
    whole,
)
from vit_jax.cli.outputs import folder_made
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "images",
        type=os.path.expanduser,
        nargs="*",
        metavar="IMAGE",
        help="image files, folders, and patterns; none: whole images are drawn",
    )
    add_output_argument(parser, "generated")
    parser.add_argument(
        "--samples",
        type=whole(1, 4096),
        default=4,
        help="completions of each image, or images to draw (%(default)s)",
    )
    parser.add_argument(
        "--keep", type=float, default=0.5, help="share of the rows that is kept (%(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="logits are divided by it; 0: the most probable colours (%(default)s)",
    )
    parser.add_argument(
        "--top-k",
        type=whole(0),
        default=0,
        help="draw from so many most probable colours; 0: from all (%(default)s)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of what is drawn (%(default)s)")
    add_use_ema_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Generates; returns the exit status."""
    with folder_made(args.output, "--output"):
        from vit_jax.evaluate.generate import generate, write_sheet
        from vit_jax.evaluate.predict import find_images

        paths = find_images(args.images) if args.images else []
        sheets = generate(
            args.checkpoint,
            paths,
            samples=args.samples,
            keep=args.keep,
            temperature=args.temperature,
            top_k=args.top_k,
            seed=args.seed,
            use_ema=args.use_ema,
        )
        rows = []
        for i, sheet in enumerate(sheets):
            stem = f"{i:03}_{Path(paths[i]).stem}" if paths else "drawn"
            file = str(Path(args.output) / f"{stem}.png")
            write_sheet(file, sheet)
            rows.append(dict(image=paths[i] if paths else None, file=file))
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(printable(row["file"]))
    return 0

"""Classify images.

  vit_jax predict --checkpoint=workdirs/fashion_mnist shoe.png photos/ --topk=3
  vit_jax predict --checkpoint=B_16.npz 'photos/*.jpg' https://host/cat.jpg --csv > classes.csv
  find photos -name '*.jpg' | vit_jax predict --checkpoint=B_16.npz - --embeddings=photos.npz

Prints a table on a terminal and a line an image elsewhere. An image that cannot be read is named on
standard error and the others go on; the exit status is 2 then. However many images there are,
no more than a few batches of them are in memory.
"""

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vit_jax.cli.arguments import (
    MOST_IMAGES,
    add_checkpoint_argument,
    add_json_argument,
    add_tta_argument,
    add_use_ema_argument,
    number,
    whole,
)
from vit_jax.cli.outputs import check_file, folder_made
from vit_jax.cli.predictions import Csv, Json, Lines, Table
from vit_jax.cli.progress import Progress
from vit_jax.cli.startup import import_quickly, keep_compilations
from vit_jax.errors import InputError
from vit_jax.text import count, printable

if TYPE_CHECKING:
    from vit_jax.evaluate.predict import Prediction

log = logging.getLogger(__name__)
BATCH_SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_checkpoint_argument(parser)
    parser.add_argument(
        "images",
        type=os.path.expanduser,
        nargs="+",
        metavar="IMAGE",
        help="image files, folders, patterns such as 'photos/*.jpg', addresses (https://, and with "
        "the extra `remote` s3:// and gs://); -: names of files and addresses from standard "
        "input, one a line",
    )
    parser.add_argument(
        "--topk",
        type=whole(1),
        help="most classes per image; default: 5, or all with --threshold",
    )
    parser.add_argument(
        "--threshold",
        type=number(0, 1),
        help="list the classes with at least this probability, from 0 to 1; a model trained with "
        "the sigmoid loss gives each class its own, others give probabilities that add up to 1",
    )
    add_tta_argument(parser, "none")
    add_use_ema_argument(parser)
    parser.add_argument(
        "--dtype",
        help="compute in float32, bfloat16 or int8 (the blocks' dense layers, faster on most "
        "CPUs); default: as in training",
    )
    parser.add_argument(
        "--batch-size",
        type=whole(1, MOST_IMAGES),
        default=BATCH_SIZE,
        help="images at a time (%(default)s)",
    )
    parser.add_argument(
        "--attention-map",
        type=os.path.expanduser,
        metavar="DIR",
        help="folder for a PNG an image with the attention rollout over it; extra: figures",
    )
    parser.add_argument(
        "--embeddings",
        type=os.path.expanduser,
        metavar="FILE",
        help="file for the features before the head, .npz or .parquet, with the images' names",
    )
    add_json_argument(parser)
    parser.add_argument(
        "--csv", action="store_true", help="print comma-separated values, a row a class"
    )


def run(args: argparse.Namespace) -> int:
    """Predicts; returns the exit status, 2 where an image could not be read."""
    if args.json and args.csv:
        raise InputError("give --json or --csv, not both")
    for flag, value in (("attention-map", args.attention_map), ("embeddings", args.embeddings)):
        if value and args.tta not in (None, "none"):
            raise InputError(f"--{flag} is of one view: leave out --tta={args.tta}")
    with contextlib.ExitStack() as stack:
        if args.embeddings:
            from vit_jax.evaluate.embeddings import check_embeddings

            check_embeddings(args.embeddings)
            check_file(args.embeddings, "--embeddings")
        if args.attention_map:
            stack.enter_context(folder_made(args.attention_map, "--attention-map"))
        return _predict(args, stack)


def _predict(args: argparse.Namespace, stack: contextlib.ExitStack) -> int:
    keep_compilations()
    evaluate = import_quickly("vit_jax.evaluate.predict")
    from vit_jax.parallel.distributed import BY_CORES, make_cpu_devices

    make_cpu_devices(BY_CORES)
    from vit_jax.data.sources.folder import EXTENSIONS

    evaluate.check_choice(args.topk, args.threshold)
    if args.checkpoint.lower().endswith(EXTENSIONS):
        raise InputError(
            f"--checkpoint={args.checkpoint} is an image; --checkpoint names the model, and the "
            "images follow without an option"
        )
    paths = _named(args.images)
    model, info = evaluate.load_for(args.checkpoint, args.use_ema, args.dtype)
    if not info.config.num_classes:
        if not (args.embeddings or args.attention_map):
            raise InputError(
                f"{args.checkpoint} has no classes; give --embeddings=FILE for its features, or "
                "fine-tune with it as config.init_from"
            )
        for flag, value in (("topk", args.topk), ("threshold", args.threshold)):
            if value is not None:
                raise InputError(f"--{flag} is of classes, and {args.checkpoint} has none")
    batch_size, reduce, pictures = args.batch_size, None, None
    if args.attention_map:
        pictures = _Pictures(args.attention_map)
        batch_size, reduce = pictures.of(info.config, args.checkpoint, batch_size)
    predictor = evaluate.Predictor(
        model,
        info,
        batch_size=batch_size,
        tta=args.tta or "none",
        features=bool(args.embeddings),
        reduce=reduce,
    )
    writer = None
    if args.embeddings:
        from vit_jax.evaluate.embeddings import open_embeddings

        writer = stack.enter_context(open_embeddings(args.embeddings))
    printer = _printer(args, paths, info.labels)
    progress = Progress(len(paths))
    stack.callback(progress.close)
    unread = 0
    for one in predictor.predictions(paths):
        result = evaluate.described(one, info.labels, args.topk, args.threshold)
        if one.error is None:
            if pictures:
                result["attention_map"] = pictures.draw(one)
            if writer:
                writer.add(one.path, one.features)
        if info.config.num_classes or args.json or args.csv:
            with progress.aside(sys.stdout):
                printer.show(result)
        if one.error is not None:
            unread += 1
            with progress.aside(sys.stderr):
                print(f"vit_jax: {printable(one.error)}", file=sys.stderr)
        progress.advance()
    progress.close()
    printer.close()
    done = len(paths) - unread
    if writer:
        log.info("features of %s in %s", count(done, "image"), args.embeddings)
    if pictures:
        log.info("attention over %s in %s", count(done, "image"), args.attention_map)
    if unread > 1:
        print(f"vit_jax: {unread:,} of {len(paths):,} images cannot be read", file=sys.stderr)
    return 2 if unread else 0


def _named(arguments: Sequence[str]) -> list[str]:
    """The images that arguments and standard input name."""
    from vit_jax.data.named import find_images, images_at

    if "-" not in arguments:
        return find_images(arguments)
    found: dict[str, None] = {}
    for argument in arguments:
        if argument == "-":
            lines = [os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer]
            named = [line for line in lines if line]
            if not named:
                raise InputError("-: standard input names no image; give a path a line")
        else:
            named = images_at(argument) or [argument]
        found |= dict.fromkeys(named)
    return list(found)


def _printer(args: argparse.Namespace, paths: Sequence[str], labels: Sequence[str]) -> Lines:
    if args.json:
        return Json()
    if args.csv:
        return Csv()
    if sys.stdout.isatty():
        return Table(paths, labels, args.threshold)
    return Lines(args.threshold)


class _Pictures:
    """Writes attention maps, each under a name of its own."""

    def __init__(self, folder: str):
        from vit_jax.figures import overlay

        overlay.color_map()  # refused without matplotlib, before the work
        self._overlay, self._folder = overlay, Path(folder)
        self._used: dict[str, int] = {}

    def of(self, model_config, name: str, batch_size: int):
        """The batch size and the reduction with which a model gives maps."""
        config = self._overlay.check_attention(model_config, name)
        size = self._overlay.batch_size(config, batch_size)
        return size, lambda out: self._overlay.rollout_maps(out, config)

    def draw(self, one: "Prediction") -> str:
        """Writes the map of an image; returns the path of the PNG."""
        from PIL import Image

        path = self._folder / self._name(one.path)
        assert one.image is not None
        assert one.reduced is not None
        picture = self._overlay.attention_picture(one.image, one.reduced)
        Image.fromarray(picture).save(path)
        return str(path)

    def _name(self, path: str) -> str:
        stem = Path(path.split("?")[0] if "://" in path else path).stem
        stem = re.sub(r"[^\w.-]", "_", stem, flags=re.ASCII)[:100] or "image"
        while True:
            count = self._used[stem] = self._used.get(stem, 0) + 1
            if count == 1:
                return f"{stem}.png"
            if (other := f"{stem}-{count}") not in self._used:
                self._used[other] = 1
                return f"{other}.png"

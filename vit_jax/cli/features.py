"""The arguments of commands that fit a classifier to frozen features."""

import argparse

from vit_jax.cli.processes import add_process_arguments, join_processes
from vit_jax.errors import InputError


def add_feature_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which model, which images, and how they are read."""
    parser.add_argument("--checkpoint", required=True, help="workdir, checkpoint or weight file")
    parser.add_argument("--source", help="data source; default: that of the checkpoint's run")
    parser.add_argument("--train", metavar="SPLIT", help="split to fit on, in tfds syntax")
    parser.add_argument("--test", metavar="SPLIT", help="split to test on")
    parser.add_argument(
        "--pp", help="preprocessing; default: resized to 8/7 of the model's size and cropped"
    )
    parser.add_argument("--data-dir", default="", help="where tfds looks")
    parser.add_argument("--batch-size", type=int, default=128, help="over all devices")
    parser.add_argument("--use-ema", action="store_true", help="averaged parameters")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_process_arguments(parser)


def open_features(args: argparse.Namespace):
    """The frozen model, training and test examples that the arguments name."""
    join_processes(args)
    from vit_jax.evaluate.features import load_features, open_pair

    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; it must be at least 1")
    model = load_features(
        args.checkpoint, pp=args.pp, batch_size=args.batch_size, use_ema=args.use_ema
    )
    train, test = open_pair(
        model.info,
        source=args.source,
        train=args.train,
        test=args.test,
        data_dir=args.data_dir,
    )
    return model, train, test


def numbers(kind: type):
    """A type of arguments: numbers separated by commas."""

    def parse(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of numbers such as 1,5"
            ) from None

    return parse

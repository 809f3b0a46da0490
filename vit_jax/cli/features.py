"""The arguments of commands that fit a classifier to frozen features."""

import argparse
from typing import Any

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


def evaluate_features(args: argparse.Namespace, type: str, **options: Any) -> dict[str, Any]:
    """The results of the checkpoint that the arguments name.

    Args:
      args: see `add_feature_arguments`.
      type: of the evaluation.
      **options: of that type, beyond source and splits.
    """
    join_processes(args)
    from vit_jax.evaluate import fewshot, probe  # noqa: F401  register their types
    from vit_jax.evaluate.evaluation import EVALUATIONS
    from vit_jax.evaluate.stored import open_stored, own_pair

    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; it must be at least 1")
    stored = open_stored(
        args.checkpoint,
        pp=args.pp,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        use_ema=args.use_ema,
    )
    pair: dict[str, Any] = own_pair(stored.info, args.source, args.train, args.test)
    return stored.run(EVALUATIONS[type](pp=args.pp or "", **pair, **options))


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

"""The arguments of commands that fit a classifier to frozen features."""

import argparse
from typing import Any

from vit_jax.cli.arguments import (
    add_batch_size_argument,
    add_checkpoint_argument,
    add_data_dir_argument,
    add_json_argument,
    add_pp_argument,
    add_source_argument,
    add_split_argument,
    add_use_ema_argument,
    whole,
)
from vit_jax.cli.processes import add_process_arguments, join_and_share_cores
from vit_jax.errors import InputError


def add_feature_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for the model, the images, and their preprocessing."""
    add_checkpoint_argument(parser)
    add_source_argument(parser, "the source of the checkpoint's run")
    add_split_argument(parser, "--train", default="that of the run, else train")
    add_split_argument(parser, "--test", default="that of the run's evaluation, else test")
    add_pp_argument(parser, "resize to 8/7 of the model's image size, then crop")
    add_data_dir_argument(parser, "as in the run")
    add_batch_size_argument(parser)
    add_use_ema_argument(parser)
    add_json_argument(parser)
    add_process_arguments(parser)


def evaluate_features(args: argparse.Namespace, type: str, **options: Any) -> dict[str, Any]:
    """Evaluates the checkpoint that the arguments name.

    Args:
      args: parsed arguments; see `add_feature_arguments`.
      type: type of the evaluation.
      **options: options of that type, besides source and splits.
    """
    join_and_share_cores(args)
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
    """Returns a parser for numbers separated by commas."""
    convert = whole() if kind is int else kind

    def parse(text: str) -> tuple:
        try:
            return tuple(convert(part) for part in text.split(","))
        except (ValueError, argparse.ArgumentTypeError):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of numbers such as 1,5"
            ) from None

    return parse

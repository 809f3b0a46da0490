"""Arguments that several commands share."""

import argparse
import logging
import math
import os
from collections.abc import Callable

MOST_IMAGES = 2**20  # of a batch


def whole(least: float = -math.inf, most: float = 2**31 - 1) -> Callable[[str], int]:
    """Returns a parser for whole numbers from `least` to `most`.

    It leaves out `least` where the command itself says what is too small.
    """

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if number > most:
            raise argparse.ArgumentTypeError(f"{text} is too large; give at most {most:g}")
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; give at least {least:g}")
        return number

    return parse


def share(text: str) -> float:
    """Parses a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return number


def add_config_argument(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds --config; `main` collects the overrides, --config.OPTION=VALUE."""
    parser.add_argument(
        "--config",
        type=os.path.expanduser,
        required=required,
        default="",
        metavar="FILE[:ARG]",
        help="config file and its argument; --config.OPTION=VALUE sets one option",
    )


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    parser.add_argument(
        "--checkpoint",
        type=os.path.expanduser,
        required=True,
        help="workdir, checkpoint or weight file",
    )


def add_data_dir_argument(parser: argparse.ArgumentParser, default: str = "tfds's own") -> None:
    """Adds --data-dir; `default` says in words what is taken without it."""
    parser.add_argument(
        "--data-dir",
        type=os.path.expanduser,
        default="",
        help=f"folder of tfds data sets; default: {default}",
    )


def add_batch_size_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --batch-size, for evaluation."""
    parser.add_argument(
        "--batch-size",
        type=whole(most=MOST_IMAGES),
        default=128,
        help="images per batch, over all devices (%(default)s)",
    )


def add_use_ema_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --use-ema."""
    parser.add_argument("--use-ema", action="store_true", help="use the averaged parameters")


def add_tta_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --tta; `default`: what is done without it."""
    parser.add_argument(
        "--tta",
        help="average over views of each image: none, flip, five_crop or ten_crop; default: "
        + default,
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_dry_run_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --dry-run."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything up to the first step, print model, layout, memory, steps, data "
        "and the first batch, and stop; no workdir is touched",
    )


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --import, which every command has."""
    parser.add_argument(
        "--import",
        dest="imports",
        type=os.path.expanduser,
        action="append",
        default=[],
        metavar="FILE",
        help="run a Python file first, which may register models, sources and so on",
    )


def add_quiet_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet; see `be_quiet`."""
    parser.add_argument("--quiet", action="store_true", help="print errors and the summary only")


def be_quiet() -> None:
    """Makes vit_jax report errors only: no stages, no display, no warnings."""
    logging.getLogger("vit_jax").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)

"""Arguments that several commands share."""

import argparse
import logging
import math
import os
from collections.abc import Callable
from typing import Any

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
            raise argparse.ArgumentTypeError(f"{text} is too large; give at most {most}")
        if number < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; give at least {least}")
        return number

    return parse


def number(least: float = 0.0, most: float = 1e9, *, above: bool = False) -> Callable[[str], float]:
    """Returns a parser for numbers from `least` to `most`; with `above`, only above `least`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not least <= value <= most or (above and value == least):
            bound = "above" if above else "from"
            raise argparse.ArgumentTypeError(
                f"{text} is out of range; give a number {bound} {least:g}, at most {most:g}"
            )
        return value

    return parse


def add_config_argument(parser: argparse._ActionsContainer, *, required: bool = True) -> None:
    """Adds --config; `main` collects the overrides, --config.OPTION=VALUE."""
    parser.add_argument(
        "--config",
        type=os.path.expanduser,
        required=required,
        default="",
        metavar="FILE[:ARG]",
        help="config file and its argument; --config.OPTION=VALUE sets one option",
    )


WEIGHTS = "workdir, checkpoint, weight file, URL or hub id"


def add_checkpoint_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --checkpoint."""
    parser.add_argument("--checkpoint", type=os.path.expanduser, required=True, help=WEIGHTS)


def add_weights_argument(parser: argparse._ActionsContainer, name: str, metavar: str) -> None:
    """Adds weights as an argument without an option, in `name` of the parsed arguments."""
    parser.add_argument(name, type=os.path.expanduser, metavar=metavar, help=WEIGHTS)


def add_data_argument(parser: argparse._ActionsContainer, name: str, **more: Any) -> None:
    """Adds DATA; `more`: as `ArgumentParser.add_argument`."""
    parser.add_argument(
        name,
        type=os.path.expanduser,
        metavar="DATA",
        help="data source, or a folder of class folders",
        **more,
    )


def add_source_argument(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds --source; `default` says in words what is taken without it."""
    parser.add_argument("--source", help=f"data source; default: {default}")


def add_split_argument(
    parser: argparse._ActionsContainer, name: str = "--split", *, default: str
) -> None:
    """Adds --split, or a split of another name; `default` says what is taken without it."""
    parser.add_argument(
        name,
        metavar="SPLIT",
        help=f'split in tfds syntax, such as "test[:10%%]"; default: {default}',
    )


def add_pp_argument(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds --pp; `default` says in words what is taken without it."""
    parser.add_argument("--pp", help=f"preprocessing; default: {default}")


def add_target_argument(parser: argparse._ActionsContainer, kinds: str) -> None:
    """Adds DST, where weights are written; `kinds`: files that the command writes."""
    parser.add_argument("target", type=os.path.expanduser, metavar="DST", help=kinds)


def add_format_argument(parser: argparse._ActionsContainer, formats: str) -> None:
    """Adds --format, of the files that are written; `formats` in words."""
    parser.add_argument("--format", default="", help=f"{formats}; default: by DST")


def add_license_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --license."""
    parser.add_argument(
        "--license",
        default="",
        help="licence for the model card, in the hub's words; default: unknown",
    )


def add_workdir_argument(parser: argparse._ActionsContainer, default: str = "") -> None:
    """Adds --workdir; `default` says in words what is taken without it."""
    end = f"; default: {default}" if default else ""
    parser.add_argument(
        "--workdir",
        type=os.path.expanduser,
        default="",
        help=f"folder for checkpoints and metrics{end}",
    )


def add_output_argument(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds --output, a folder for pictures."""
    parser.add_argument(
        "--output",
        type=os.path.expanduser,
        default=default,
        help="folder for the PNGs (%(default)s)",
    )


def add_data_dir_argument(parser: argparse._ActionsContainer, default: str = "tfds's own") -> None:
    """Adds --data-dir; `default` says in words what is taken without it."""
    parser.add_argument(
        "--data-dir",
        type=os.path.expanduser,
        default="",
        help=f"folder of tfds data sets; default: {default}",
    )


def add_batch_size_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --batch-size, for evaluation."""
    parser.add_argument(
        "--batch-size",
        type=whole(most=MOST_IMAGES),
        default=128,
        help="images per batch, over all devices (%(default)s)",
    )


def add_use_ema_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --use-ema."""
    parser.add_argument("--use-ema", action="store_true", help="use the averaged parameters")


def add_tta_argument(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds --tta; `default`: what is done without it."""
    parser.add_argument(
        "--tta",
        help="average over views of each image: none, flip, five_crop or ten_crop; default: "
        + default,
    )


def add_json_argument(parser: argparse._ActionsContainer, what: str = "") -> None:
    """Adds --json; `what`: what is printed, "" for everything."""
    parser.add_argument(
        "--json", action="store_true", help=f"print {what} as JSON" if what else "print JSON"
    )


def add_mfu_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --mfu, above 0 and at most 1."""
    parser.add_argument(
        "--mfu",
        type=number(0, 1, above=True),
        default=0.4,
        help="assumed fraction of the peak speed (%(default)s)",
    )


def add_dry_run_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --dry-run."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything up to the first step, print model, layout, memory, steps, data "
        "and the first batch, and stop; no workdir is touched",
    )


def add_import_argument(parser: argparse._ActionsContainer) -> None:
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


def add_quiet_argument(parser: argparse._ActionsContainer) -> None:
    """Adds --quiet; see `be_quiet`."""
    parser.add_argument("--quiet", action="store_true", help="print errors and the summary only")


def be_quiet() -> None:
    """Makes vit_jax report errors only: no stages, no display, no warnings."""
    logging.getLogger("vit_jax").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)

"""The argument --config, shared by commands."""

import argparse
import os


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --config; `main` collects the overrides, --config.OPTION=VALUE."""
    parser.add_argument(
        "--config",
        type=os.path.expanduser,
        required=True,
        metavar="FILE[:ARG]",
        help="config file and its argument; --config.OPTION=VALUE sets one option",
    )

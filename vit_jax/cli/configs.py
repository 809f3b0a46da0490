"""The argument --config that commands share."""

import argparse


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --config; its overrides are arguments the parser does not know (see `main`)."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="config file and its argument; --config.OPTION=VALUE replaces one option",
    )

"""List the options of a run: type, default, meaning, and what each one changes.

vit_jax config
vit_jax config optimizer
vit_jax config "*rate*" --json
"""

import argparse
import dataclasses
import fnmatch
import json
from typing import Any

from vit_jax.cli.arguments import add_json_argument
from vit_jax.errors import unknown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help='a section, a full name, or a shell pattern such as "*rate*"',
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the options; returns the exit status."""
    from vit_jax.train.config import every_option

    options = list(every_option())
    patterns = (args.pattern, f"{args.pattern}.*")
    found = [one for one in options if any(fnmatch.fnmatchcase(one.name, p) for p in patterns)]
    if not found:
        sections = {one.name.partition(".")[0] for one in options}
        raise unknown("option", args.pattern, {*sections, *(one.name for one in options)})
    if args.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        print(f"{one.name} = {_show(one.default)}  ({one.type}; {one.effect})\n    {one.meaning}")
    return 0


def _show(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else str(default)

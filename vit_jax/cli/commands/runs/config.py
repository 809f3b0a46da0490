"""List the options of a run, print a resolved config, or compare two.

  vit_jax config optimizer                             # options: type, default, range, meaning
  vit_jax config "*rate*" --json
  vit_jax config configs/quickstart.py:finetune        # values, and what set each
  vit_jax config configs/quickstart.py:finetune optimizer --config.optimizer.b2=0.95
  vit_jax config workdirs/quickstart/pretrain --changed
  vit_jax config --diff configs/quickstart.py:pretrain workdirs/quickstart/pretrain

An option's origin is default, file, argument (the config file because of its argument), override,
weights (of init_from) or name (the model's). docs/configs.md has more.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
from collections.abc import Iterable
from typing import Any

from vit_jax.cli.arguments import add_json_argument
from vit_jax.errors import InputError, nearest, suggestion
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "what",
        nargs="?",
        type=os.path.expanduser,
        metavar="CONFIG",
        help="config file with its argument (x.py:arg) or workdir; without it the options of "
        "every run are listed",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        help='a section, a full name, or a shell pattern such as "*rate*"',
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        type=os.path.expanduser,
        metavar=("A", "B"),
        help="compare two configs or workdirs: the options that differ, with both values",
    )
    parser.add_argument(
        "--changed", action="store_true", help="only options that differ from their default"
    )
    add_json_argument(parser)
    parser.set_defaults(config="")  # so that --config.OPTION=VALUE is taken


def run(args: argparse.Namespace) -> int:
    """Prints options; returns the exit status."""
    from vit_jax.cli.configs.resolved import is_config

    if args.diff:
        if args.what or args.overrides or args.changed:
            extra = [*filter(None, [args.what]), *args.overrides, "--changed"][0]
            raise InputError(f"--diff takes two configs or workdirs and nothing else, not {extra}")
        return _compare(*args.diff, as_json=args.json)
    if args.what and is_config(args.what):
        return _show_resolved(args)
    for word in ("--changed",) if args.changed else args.overrides[:1]:
        raise InputError(f"{word} needs a config: vit_jax config configs/x.py {word}")
    if args.pattern:
        raise InputError(f"{args.what} is neither a config file x.py nor a workdir")
    from vit_jax.train.config import every_option

    options = list(every_option())
    found = select(args.what or "*", options)
    if args.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        kind = _joined(one.type, one.range, one.effect)
        print(f"{one.name} = {_show(one.default)}  ({kind})\n    {one.meaning}")
    return 0


def select(pattern: str, options: Iterable[Any]) -> list[Any]:
    """The options that a section, a name or a shell pattern selects.

    Raises:
      InputError: none; it names the nearest option.
    """
    options = list(options)
    patterns = (pattern, f"{pattern}.*")
    found = [one for one in options if any(fnmatch.fnmatchcase(one.name, p) for p in patterns)]
    if not found:
        from vit_jax.config import default
        from vit_jax.config_files import meant_option
        from vit_jax.train.config import USUAL_NAMES

        known = {part for one in options for part in (one.name, one.name.partition(".")[0])}
        meant = meant_option(default(), pattern)
        if meant and (pattern in USUAL_NAMES or not nearest(pattern, known)):
            raise InputError(f"unknown option {pattern!r}{suggestion(meant)}")
        hint = nearest(pattern, known) or "; `vit_jax config` lists all"
        raise InputError(f"unknown option {pattern!r}{hint}")
    return found


def _show_resolved(args: argparse.Namespace) -> int:
    from vit_jax.cli.configs.resolved import resolve

    options = resolve(args.what, args.overrides)
    found = select(args.pattern or "*", options)
    if args.changed:
        found = [one for one in found if one.origin != "default" and one.value != one.default]
    if args.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return 0
    for one in found:
        origin = f"{one.origin} {one.where}".strip()
        usual = "" if one.value == one.default else f"; default {_show(one.default)}"
        print(f"{one.name} = {printable(_show(one.value))}  [{printable(origin)}{usual}]")
        kind = _joined(one.type, one.range, one.effect)
        print(f"    {one.meaning} ({kind})" if kind else "    an option of no section")
    return 0


def _compare(first: str, second: str, *, as_json: bool) -> int:
    from vit_jax.cli.configs.resolved import ABSENT, differences

    found = differences(first, second)
    if as_json:
        rows = []
        for name, pair in found.items():
            values = {key: value for key, value in zip("ab", pair) if value is not ABSENT}
            rows.append(dict(name=name, **values))
        print(json.dumps(rows, indent=2))
        return 0
    if not found:
        print(printable(f"{first} and {second} say the same"))
    for name, pair in found.items():
        one, other = ("absent" if value is ABSENT else _show(value) for value in pair)
        print(printable(f"{name}: {one} -> {other}"))
    return 0


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _show(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)

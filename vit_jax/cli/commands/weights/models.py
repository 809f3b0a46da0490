"""List the models with parameters and multiply-adds, for 1000 classes and 224 pixels (iGPT: 32).

vit_jax models "R50*" --json

With --pretrained, list published weights, with the accuracy on ImageNet that is published for them:

vit_jax models --pretrained "dinov3*"
"""

import argparse
import csv
import dataclasses
import fnmatch
import json
from importlib.resources import files

from vit_jax.cli.arguments import add_json_argument
from vit_jax.errors import InputError

# What `sizes` returns, kept because JAX is imported and traces the models in seconds.
SIZES = files("vit_jax") / "models" / "sizes.tsv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help='shell pattern, e.g. "ViT-*/16"')
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="list published weights; the pattern is for their name, family or model",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table; returns the exit status."""
    if args.pretrained:
        return _published(args.pattern, args.json)
    with SIZES.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rows = [row for row in rows if fnmatch.fnmatchcase(row["name"].lower(), args.pattern.lower())]
    if not rows:
        raise InputError(f"no model matches {args.pattern!r}; `vit_jax models` lists all")
    if args.json:
        found = [{key: row[key] if key == "name" else int(row[key]) for key in row} for row in rows]
        print(json.dumps(found, indent=2))
    else:
        print(f"{'model':14}{'parameters':>16}{'GMACs':>10}")
        for row in rows:
            print(f"{row['name']:14}{int(row['params']):>16,}{int(row['macs']) / 1e9:>10.3f}")
    return 0


def sizes() -> str:
    """The contents of SIZES, computed: each model's parameters, multiply-adds and pixels a side."""
    from vit_jax import models
    from vit_jax.models import flops

    lines = ["name\tparams\tmacs\timage_size"]
    for name in models.list_models():
        config = models.model_config(name, num_classes=1000)
        numbers = flops.parameters(config), flops.macs(config), config.image_size[0]
        lines.append("\t".join([name, *map(str, numbers)]))
    return "\n".join(lines) + "\n"


def _published(pattern: str, as_json: bool) -> int:
    """Prints the list of published weights."""
    from vit_jax.weights.published import find_published

    found = find_published(pattern)
    if not found:
        raise InputError(
            f"no published weights match {pattern!r}; `vit_jax models --pretrained` lists all"
        )
    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in found], indent=2))
        return 0
    width = max(len(entry.name) for entry in found)
    print(f"{'name':{width}}  {'model':17}{'size':>5}{'parameters':>15}  {'top-1':25}licence")
    for entry in found:
        figures = ", ".join(f"{kind} {value:.1f}" for kind, value in entry.figures.items())
        print(
            f"{entry.name:{width}}  {entry.model:17}{entry.image_size:>5}{entry.parameters:>15,}  "
            f"{figures:25}{entry.licence}"
        )
    print(
        f"{len(found)} weights; top-1: published accuracy on ImageNet in percent; --json adds its "
        "source, the family, the classes and the preprocessing"
    )
    return 0

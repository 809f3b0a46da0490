"""List the models with parameters and multiply-adds, for 1000 classes and 224 pixels.

vit_jax models "R50*" --json
"""

import argparse
import json

from vit_jax.cli.arguments import add_json_argument
from vit_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help='shell pattern, e.g. "ViT-*/16"')
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table; returns the exit status."""
    from vit_jax import models
    from vit_jax.models import flops

    rows = []
    for name in models.list_models(args.pattern):
        config = models.model_config(name, num_classes=1000, image_size=224)
        count, macs = flops.parameters(config), flops.macs(config)
        rows.append((name, count, macs))
    if not rows:
        raise InputError(f"no model matches {args.pattern!r}; `vit_jax models` lists all")
    if args.json:
        keys = ("name", "params", "macs")
        print(json.dumps([dict(zip(keys, row), image_size=224) for row in rows], indent=2))
    else:
        print(f"{'model':14}{'parameters':>16}{'GMACs':>10}")
        for name, count, macs in rows:
            print(f"{name:14}{count:>16,}{macs / 1e9:>10.3f}")
    return 0

"""List the models with parameters and multiply-adds, for 1000 classes and 224 pixels.

vit_jax models "R50*" --json
"""

import argparse
import functools
import json

from vit_jax.cli.arguments import add_json_argument
from vit_jax.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help='shell pattern, e.g. "ViT-*/16"')
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table; returns the exit status."""
    import jax

    from vit_jax import models
    from vit_jax.models import flops

    rows = []
    for name in models.list_models(args.pattern):
        config = models.model_config(name, num_classes=1000, image_size=224)
        _, params = models.abstract(functools.partial(models.build_model, config))
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        rows.append(dict(name=name, params=count, macs=flops.macs(config), image_size=224))
    if not rows:
        raise InputError(f"no model matches {args.pattern!r}; `vit_jax models` lists all")
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{'model':14}{'parameters':>16}{'GMACs':>10}")
        for row in rows:
            print(f"{row['name']:14}{row['params']:>16,}{row['macs'] / 1e9:>10.3f}")
    return 0

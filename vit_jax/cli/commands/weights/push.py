"""Upload a model to the Hugging Face hub: weights, model card, preprocessing, labels.

vit_jax push workdirs/pets owner/pets --private
vit_jax push workdirs/pets owner/pets --format=timm --license=apache-2.0
vit_jax push workdirs/pets owner/pets --dry-run

transformers and timm load such a repository by its id. The token is that of `hf auth login`, or
HF_TOKEN. Needs `pip install 'vit_jax[hub]'`, except with --dry-run.
"""

import argparse
import json

from vit_jax.cli.arguments import (
    add_json_argument,
    add_license_argument,
    add_use_ema_argument,
    add_weights_argument,
)
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_weights_argument(parser, "source", "WORKDIR")
    parser.add_argument("repository", metavar="REPO_ID", help="OWNER/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--format",
        default="huggingface",
        help="library that will load it: huggingface (transformers) or timm (%(default)s)",
    )
    add_license_argument(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="list the files and their sizes, upload nothing"
    )
    add_use_ema_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Uploads; returns the exit status."""
    from vit_jax.checkpoint import read_weights
    from vit_jax.report.publish import check_repository, hub_token, push

    check_repository(args.repository, args.format)
    weights = read_weights(args.source, use_ema=args.use_ema)
    token = "" if args.dry_run else hub_token()
    sizes, lines, address = push(
        weights,
        args.repository,
        token=token,
        format=args.format,
        private=args.private,
        license=args.license,
    )
    if args.json:
        told = dict(repository=args.repository, files=sizes, address=address, report=lines)
        print(json.dumps(told, indent=2))
        return 0
    for name, count in sizes.items():
        print(f"{count:>15,} bytes  {printable(name)}")
    for line in lines:
        print(printable(line))
    print(f"uploaded to {printable(address)}" if address else "nothing was uploaded (--dry-run)")
    return 0

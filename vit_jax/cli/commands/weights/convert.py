"""Convert weights to the format of another program; every tensor is accounted for.

vit_jax convert google/vit-base-patch16-224 B_16.npz
vit_jax convert B_16.npz vit_base_384 --format=timm --set image_size=384
vit_jax convert workdirs/pets pets.onnx
vit_jax convert workdirs/pets pets.stablehlo
vit_jax convert workdirs/pets_lora adapter --format=peft
"""

import argparse
import ast
import json
from typing import Any

from vit_jax.cli.arguments import (
    add_format_argument,
    add_json_argument,
    add_license_argument,
    add_target_argument,
    add_use_ema_argument,
    add_weights_argument,
)
from vit_jax.errors import InputError
from vit_jax.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_weights_argument(parser, "source", "SRC")
    add_target_argument(parser, "x.npz, x.safetensors, x.onnx, x.stablehlo, directory")
    add_format_argument(
        parser,
        "google, timm, huggingface, open_clip, onnx, stablehlo, savedmodel; for the adapter of a "
        "LoRA run peft or peft_transformers4",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="model option that SRC does not contain, or that is to change, e.g. num_heads=12",
    )
    parser.add_argument(
        "--resample",
        help="how position embeddings are resized to another image_size (bilinear_align_corners)",
    )
    parser.add_argument(
        "--leave-out", action="append", default=[], help="pattern of tensor names to leave out"
    )
    add_license_argument(parser)
    add_use_ema_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Converts; returns the exit status."""
    from vit_jax.checkpoint import read_weights
    from vit_jax.report.publish import check_license, write_directory
    from vit_jax.weights import check_target

    check_license(args.target, args.format, args.license)
    check_target(args.target, format=args.format)
    weights = read_weights(
        args.source,
        use_ema=args.use_ema,
        resample=args.resample,
        leave_out=args.leave_out,
        **_options(args.set),
    )
    written = write_directory(weights, args.target, format=args.format, license=args.license)
    lines = [*weights.report, *written]
    if args.json:
        print(json.dumps(dict(name=weights.name, options=weights.options, report=lines), indent=2))
    else:
        print("\n".join(map(printable, lines)))
    return 0


def _options(words: list[str]) -> dict[str, Any]:
    """["num_heads=12", "head=gap"] -> {"num_heads": 12, "head": "gap"}."""
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set {word}: write OPTION=VALUE, such as num_heads=12")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options

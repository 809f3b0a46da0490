"""Speed of a model's training step or forward pass on this machine, with synthetic data.

  vit_jax benchmark --model=ViT-S/16 --mode=train --batch=16
  vit_jax benchmark --model=ViT-B/16 --mode=infer --sweep --json
  vit_jax benchmark --model=ViT-S/16 --batch=16 --profile=/tmp/trace

--sweep doubles the batch until it is slower or does not fit. --profile shows the time of each
part of the model, and writes a trace for TensorBoard or Perfetto.
"""

import argparse
import contextlib
import json
import os
from typing import Any

from vit_jax.cli.arguments import MOST_IMAGES, add_json_argument, whole
from vit_jax.cli.outputs import folder_made

GIB = 2**30
MOST_PIXELS = 2**14
MOST_DEVICES = 2**12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--model", required=True, help="see `vit_jax models`")
    parser.add_argument("--mode", default="train", help="train or infer (default: %(default)s)")
    parser.add_argument(
        "--batch",
        type=whole(most=MOST_IMAGES),
        help="images per batch, over all devices; default: 16 on each accelerator, 16 on a CPU",
    )
    parser.add_argument(
        "--image-size",
        type=whole(most=MOST_PIXELS),
        help="pixels; default: 224, for iGPT 32",
    )
    parser.add_argument("--dtype", help="default: bfloat16, on CPUs float32")
    parser.add_argument("--steps", type=whole(), default=20, help="steps to time (%(default)s)")
    parser.add_argument(
        "--cpu-devices",
        type=whole(-1, MOST_DEVICES),
        default=-1,
        metavar="N",
        help="config.parallel.cpu_devices: number of CPU devices; default: as in a run",
    )
    parser.add_argument(
        "--unroll",
        type=whole(-1),
        default=0,
        metavar="N",
        help="config.model.unroll: blocks per iteration of the loop, -1: all; default: as in a run",
    )
    parser.add_argument(
        "--sweep", action="store_true", help="find the fastest batch size, starting from --batch"
    )
    parser.add_argument(
        "--profile",
        type=os.path.expanduser,
        metavar="DIR",
        help="write a trace of some steps to DIR",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Measures; returns the exit status."""
    with folder_made(args.profile, "--profile") if args.profile else contextlib.nullcontext():
        return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    import jax

    from vit_jax.parallel.distributed import make_cpu_devices
    from vit_jax.speed import benchmark, profile

    make_cpu_devices(args.cpu_devices, name="--cpu-devices")
    accelerators = jax.device_count() if jax.default_backend() != "cpu" else 1
    config = benchmark.run_config(
        args.model,
        batch_size=16 * accelerators if args.batch is None else args.batch,
        image_size=args.image_size,
        dtype=args.dtype,
        unroll=args.unroll,
    )
    measure = benchmark.sweep if args.sweep else benchmark.benchmark
    result = measure(config, args.mode, steps=args.steps)
    if args.profile:
        config.batch_size = result["batch_size"]
        result["profile"] = profile.profile(config, args.mode, args.profile)
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join([*lines(result), *table(result.get("profile"))]))
    return 0


def lines(result: dict[str, Any]) -> list[str]:
    """The measurement as lines of text."""
    height, width = result["image_size"]
    low, high = result["step_ms_spread"]
    speed, each = result["images_per_second"], result["images_per_second_per_device"]
    rows = [
        ("model", f"{result['model']} at {height}x{width}, {result['params']:,} parameters"),
        ("step", f"{result['mode']}, batch {result['batch_size']}, {result['dtype']}"),
        ("device", f"{result['devices']} x {result['device']}"),
        ("compilation", f"{result['compile_seconds']:.1f} s"),
        (
            "time",
            f"{result['step_ms']:.1f} ms a step, {low:.1f} to {high:.1f} for eight in ten of "
            f"{result['steps']}",
        ),
        ("speed", f"{speed:,.1f} images/s, {each:,.1f} on each device"),
        ("MFU", f"{result['mfu']:.1%}" if result["mfu"] else "unknown: no peak speed known"),
        ("memory", f"{result['peak_bytes'] / GIB:.2f} GiB on each device"),
    ]
    for tried in result.get("sweep", ()):
        speed = tried["images_per_second"]
        text = f"{speed:,.1f} images/s" if speed else "does not fit"
        rows.append((f"batch {tried['batch_size']}", text))
    return [f"{name:12} {text}" for name, text in rows]


def table(profile: dict[str, Any] | None) -> list[str]:
    """The time of each part of the model, as lines of text."""
    if not profile:
        return []
    total = sum(part["forward_ms"] + part["backward_ms"] for part in profile["parts"])
    rows = ["", f"{'part':12}{'forward':>12}{'backward':>12}{'share':>9}"]
    for part in profile["parts"]:
        forward, backward = part["forward_ms"], part["backward_ms"]
        share = (forward + backward) / total
        rows.append(f"{part['part']:12}{forward:>9.2f} ms{backward:>9.2f} ms{share:>9.1%}")
    rows.append(f"Of {profile['step_ms']:.1f} ms a step; trace in {profile['directory']}")
    return rows

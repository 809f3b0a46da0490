"""Estimate memory, network traffic and time of a run from its compiled step, without training.

  vit_jax plan --config=configs/vit_jft.py:ViT-L/16 --topology=v5e:16x16
  vit_jax plan --config=configs/vit_jft.py:ViT-H/14 --topology=v3:16x16 --fit-batch --json

--topology names TPUs that this machine need not have (v3, v4, v5e, v5p, v6e; the shape counts
chips); `pip install 'vit_jax[plan]'` installs their compiler. Without it the plan is for this
machine's devices. Known data sets need not be there either. If a step does not fit in memory,
the command suggests changes, each checked by compiling.
"""

import argparse
import json
import os
from typing import Any

from vit_jax.cli.arguments import add_config_argument, add_json_argument
from vit_jax.config_files import load_config
from vit_jax.errors import InputError

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config_argument(parser)
    parser.add_argument("--topology", metavar="TPU:SHAPE", help="e.g. v5e:16x16 or v4:4x4x8")
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="assumed fraction of the peak speed (%(default)s)"
    )
    parser.add_argument(
        "--fit-batch",
        action="store_true",
        help="find the largest batch that fits, to within a sixteenth; compiles several times",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns the exit status."""
    if not 0 < args.mfu <= 1:
        raise InputError(f"--mfu={args.mfu:g}: give a share above 0, at most 1")
    config = load_config(args.config, args.overrides)
    if args.topology:
        os.environ["JAX_PLATFORMS"] = "cpu"  # do not occupy this machine's TPUs
    from vit_jax.parallel.distributed import make_cpu_devices
    from vit_jax.plan.compile import topology_devices
    from vit_jax.plan.dataset import dataset_of
    from vit_jax.plan.report import describe
    from vit_jax.plan.search import Planner

    if not args.topology:
        make_cpu_devices(config.parallel.cpu_devices)
    devices = topology_devices(args.topology) if args.topology else None
    planner = Planner(config, dataset_of(config), devices)
    step = planner.compile()
    result = dict(topology=args.topology, **describe(step, mfu=args.mfu))
    suggestions = iter(()) if step.fits else planner.suggest(step)
    if args.json:
        if not step.fits:
            result["suggestions"] = list(suggestions)
        if args.fit_batch:
            result["fit_batch"] = planner.fit_batch(step)
        print(json.dumps(result, indent=2))
        return 0
    print("\n".join(lines(result)), flush=True)
    found = step.fits
    for attempt in suggestions:  # each may take minutes
        found |= attempt["fits"]
        print(_row(*_suggestion(attempt)), flush=True)
    if not found:
        advice = "nothing that was tried fits; take more devices, larger ones or a smaller batch"
        print(_row("suggestion", advice))
    if args.fit_batch:
        batch = planner.fit_batch(step)
        print(_row("largest batch", f"{batch:,}" if batch else "none"))
    return 0


def lines(plan: dict[str, Any]) -> list[str]:
    """The plan as lines of text."""
    height, width = plan["image_size"]
    spread = " ".join(f"{name}={value}" for name, value in plan["layout"].items())
    rows = [
        ("run", f"{plan['model']} at {height}x{width}, batch {plan['batch_size']:,}"),
        ("devices", f"{plan['devices']} {plan['device']}: {spread}"),
        ("parameters", f"{plan['params']:,}"),
        ("FLOPs", f"{plan['flops_per_image']:.3g} an image, {plan['flops_per_run']:.3g} the run"),
        ("length", f"{plan['steps']:,} steps, {plan['images']:,} images"),
        ("memory", _memory(plan)),
        ("collectives", _network(plan)),
        ("compilation", f"{plan['compile_seconds']:.0f} s"),
        ("fastest step", _roofline(plan)),
        ("time", _time(plan)),
    ]
    if plan["tpu_core_days"] is not None or plan["paper_tpu_v3_core_days"]:
        rows.append(("TPU-core-days", _core_days(plan)))
    return [_row(*row) for row in rows]


def _row(name: str, text: str) -> str:
    return f"{name:14} {text}"


def _suggestion(attempt: dict[str, Any]) -> tuple[str, str]:
    verdict = "fits" if attempt["fits"] else "does not fit"
    text = f"{' '.join(attempt['flags'])}: {_gib(attempt['total_bytes'])}, {verdict}"
    return "suggestion" if attempt["fits"] else "tried", text


def _memory(plan: dict[str, Any]) -> str:
    parts = plan["bytes_per_device"]
    listed = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size)
    limit = plan["memory_per_device"]
    of = f" of {_gib(limit)}" if limit else ""
    return f"{listed}{of} a device: {'fits' if plan['fits'] else 'does not fit'}"


def _network(plan: dict[str, Any]) -> str:
    least, total = plan["collective_bytes_minimum"], plan["collective_bytes_per_step"]
    if total is None:
        return f"unknown, at least {_gib(least)} a step from each device"
    kinds = ", ".join(f"{kind} {_gib(size)}" for kind, size in plan["collectives"].items())
    if not least:
        return f"{kinds or 'none'} a step from each device"
    hidden = plan["collective_bytes_overlapped"] / max(total, 1)
    return (
        f"{kinds} a step from each device, {total / least:.2f} of what the layout needs; "
        f"{hidden:.0%} while something is computed"
    )


def _roofline(plan: dict[str, Any]) -> str:
    found = plan["roofline"]
    if found is None:
        return "unknown"
    terms = ("compute", "memory", "network")
    parts = ", ".join(f"{name} {1000 * found[name]:.1f} ms" for name in terms)
    return (
        f"{1000 * found['step']:.1f} ms, an MFU of {found['mfu']:.0%}, bound by "
        f"{found['bottleneck']} ({parts} at the chip's full speed)"
    )


def _time(plan: dict[str, Any]) -> str:
    if plan["days"] is None:
        return f"unknown: no peak speed known for {plan['device']}"
    step = f"{1000 * plan['step_seconds']:.0f} ms a step"
    speed = f"an MFU of {plan['mfu']:.0%}"
    if plan["bound_by_roofline"]:
        speed = f"the fastest step, slower than {speed}"
    return f"{plan['days']:.3g} days at {speed}, {step}"


def _core_days(plan: dict[str, Any]) -> str:
    text = f"{plan['tpu_v3_core_days']:,.0f} on TPU v3 at that MFU"
    if plan["tpu_core_days"] is not None and plan["device"] != "TPU v3":
        text = f"{plan['tpu_core_days']:,.0f} here, {text}"
    if paper := plan["paper_tpu_v3_core_days"]:
        text += f"; the paper's {paper:,} make an MFU of {plan['paper_mfu']:.0%}"
    return text


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"

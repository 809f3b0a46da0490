"""Estimate memory, network traffic and time of a run from its compiled step, without training.

  vit_jax plan --config=configs/vit_jft.py:ViT-L/16 --topology=v5e:16x16
  vit_jax plan --config=configs/vit_jft.py:ViT-L/16 --topology=v5e:16x16 --search --write=l16.py
  vit_jax plan --config=configs/vit_jft.py:ViT-H/14 --topology=v3:16x16 --fit-batch --json
  vit_jax plan --config=configs/vit_jft.py:ViT-H/14 --topology=v6e:16x16 --slices=2 \\
      --config.parallel.replica=2
  vit_jax plan --config=configs/vit_jft.py:ViT-L/16 --topology=h100:8x8

--topology names TPUs that this machine need not have (v3, v4, v5e, v5p, v6e, tpu7x; the shape
counts chips) or GPUs (a100, h100, h200, b200, gb200; nodes x GPUs). `pip install 'vit_jax[plan]'`
installs the compiler for TPUs; without it, and for GPUs, formulas predict the step. Without
--topology the plan is for this machine's devices. --slices is a number of slices of TPUs, connected
only by the data-centre network, which the mesh axis replica crosses. Known data sets need not be
there either. If a step does not fit in memory, the command suggests changes, each checked by
compiling. --search finds mesh sizes, remat and accumulation for the least predicted step, by
formulas, and compiles the best few; options that are given on the command line stay.
--images-per-core, --storage-bandwidth, --mtbf, --price, --compare and --scaling answer what a
planner asks next: docs/scaling.md, "Answers".
"""

import argparse
import functools
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vit_jax.cli.answers import (
    add_answer_arguments,
    check_known,
    comparison,
    questions_of,
    scaling_of,
)
from vit_jax.cli.arguments import add_config_argument, add_json_argument, add_mfu_argument, whole
from vit_jax.cli.layouts import run_search
from vit_jax.cli.outputs import check_file
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.text import printable

if TYPE_CHECKING:
    import jax

    from vit_jax.plan.compile import Keep, Step
    from vit_jax.plan.search import Planner

MAX_GBITS = 10**6  # far more than any network has


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_config_argument(parser)
    parser.add_argument(
        "--topology", metavar="CHIP:SHAPE", help="e.g. v5e:16x16, v4:4x4x8 or h100:8x8 (64 GPUs)"
    )
    parser.add_argument("--slices", type=int, default=1, help="number of slices (%(default)s)")
    parser.add_argument(
        "--slice-bandwidth",
        type=float,
        metavar="GBITS",
        help="Gbit/s of one chip to other slices (of a GPU to other nodes), one direction; "
        "default: as published, which v3 and v4 are not",
    )
    add_mfu_argument(parser)
    parser.add_argument(
        "--fit-batch",
        action="store_true",
        help="find the largest batch that fits, to within a sixteenth; compiles several times",
    )
    add_answer_arguments(parser)
    parser.add_argument(
        "--save",
        type=os.path.expanduser,
        metavar="FILE",
        help="keep the compiled step, for `vit_jax train --compiled=FILE` on such devices",
    )
    parser.add_argument(
        "--batch", type=whole(1), help="global batch size, instead of config.batch_size"
    )
    parser.add_argument(
        "--search", action="store_true", help="find the layout with the least predicted step"
    )
    parser.add_argument(
        "--compile",
        type=whole(0, 100),
        default=4,
        metavar="N",
        help="with --search: compile the best N layouts (%(default)s), and the fastest of them "
        "once more, with or without a loop over blocks; kept on disk",
    )
    parser.add_argument(
        "--write",
        type=os.path.expanduser,
        metavar="FILE",
        help="with --search: write the layout as a config file, for --config=FILE",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; returns the exit status."""
    _check_arguments(args)
    questions = questions_of(args)
    config = load_config(args.config, args.overrides)
    if args.batch is not None:
        config.batch_size = args.batch
    if args.topology or args.compare:
        os.environ["JAX_PLATFORMS"] = "cpu"  # do not occupy this machine's TPUs
    import jax

    from vit_jax.parallel.distributed import make_cpu_devices
    from vit_jax.plan.analytic.step import Analyst
    from vit_jax.plan.analytic.topology import Topology, find_topology
    from vit_jax.plan.answers.answer import answer
    from vit_jax.plan.answers.compare import row as compared_row
    from vit_jax.plan.answers.text import compared
    from vit_jax.plan.compile import compile_step
    from vit_jax.plan.dataset import dataset_of
    from vit_jax.plan.layouts.auto import arrange
    from vit_jax.plan.report import describe
    from vit_jax.plan.search import Planner

    if not args.topology:
        make_cpu_devices(config.parallel.cpu_devices)
    topology = find_topology(args.topology, args.slices) if args.topology else Topology([], "")
    devices = topology.devices or None
    bandwidth = _bandwidth(args, devices)
    dataset = dataset_of(config)
    if args.search:
        return run_search(args, Analyst(config, dataset, devices, bandwidth), topology)
    if args.compare and not args.topology:
        others = comparison(args, config, dataset, questions, bandwidth)
        print(
            json.dumps(dict(compare=others), indent=2) if args.json else _joined(compared(others))
        )
        return 0
    check_known(args, (devices or jax.devices())[0].device_kind)
    if args.save and topology.analytic:
        raise InputError(f"--save={args.save} keeps a compiled step, but {topology.why}")
    planned = arrange(config, dataset, devices, topology=args.topology or "", slices=args.slices)
    planner = Planner(
        planned, dataset, devices, analytic=topology.analytic, slice_bandwidth=bandwidth
    )
    keep = _keep(args.save) if args.save else None
    step = compile_step(planned, dataset, devices, keep) if keep else planner.compile()
    document = describe(step, mfu=args.mfu, slice_bandwidth=bandwidth)
    result = dict(
        topology=args.topology,
        **answer(step.run, dataset, document, questions),
        why_analytic=topology.why or None,
    )
    if args.scaling:
        result["scaling"] = scaling_of(args, step.run, result, bandwidth)
    if args.compare:
        others = comparison(args, config, dataset, questions, bandwidth)
        result["compare"] = [compared_row(args.topology, result), *others]
    if args.save:
        result["saved"] = args.save if step.fits else None
    if args.json:
        _print_json(args, planner, step, result)
    else:
        _print(args, planner, step, result)
    return 0


def _bandwidth(args: argparse.Namespace, devices: Sequence["jax.Device"] | None) -> float | None:
    """Bytes per second between slices that --slice-bandwidth gives, None: as published.

    Raises:
      InputError: there are no slices, or there are and no bandwidth is published.
    """
    from vit_jax.parallel.hardware import GBIT
    from vit_jax.parallel.mesh import num_slices

    slices = num_slices(devices) if devices else 1
    if args.slice_bandwidth is not None:
        if slices == 1 and not _has_slices(args):
            raise InputError(f"--slice-bandwidth={args.slice_bandwidth:g} needs --slices above 1")
        return args.slice_bandwidth * GBIT
    if devices and slices > 1:
        _check_published(devices[0].device_kind, slices)
    return None


def _print_json(
    args: argparse.Namespace, planner: "Planner", step: "Step", result: dict[str, Any]
) -> None:
    """Prints the plan, what would make it fit, and the largest batch, as one document."""
    if not step.fits:
        result["suggestions"] = list(planner.suggest(step))
    if args.fit_batch:
        result["fit_batch"] = planner.fit_batch(step)
    print(json.dumps(result, indent=2))


def _print(
    args: argparse.Namespace, planner: "Planner", step: "Step", result: dict[str, Any]
) -> None:
    """Prints the plan as text, each suggestion as soon as it is known."""
    from vit_jax.plan.answers.text import compared, curve, rows
    from vit_jax.plan.text import lines, row, suggestion

    answers = [row(*each) for each in rows(result, args.config)]
    if args.save:
        answers.append(
            row("saved", printable(args.save) if step.fits else "nothing: it does not fit")
        )
    print(_joined([*lines(result), *answers]), flush=True)
    for name, table in (("scaling", curve), ("compare", compared)):
        if name in result:
            print(_joined(["", *table(result[name])]), flush=True)
    found = step.fits
    for attempt in iter(()) if step.fits else planner.suggest(step):  # each may take minutes
        found |= attempt["fits"]
        print(row(*suggestion(attempt)), flush=True)
    if not found:
        advice = "nothing that was tried fits; take more devices, larger ones or a smaller batch"
        print(row("suggestion", advice))
    if args.fit_batch:
        batch = planner.fit_batch(step)
        print(row("largest batch", f"{batch:,}" if batch else "none"))


def _keep(path: str) -> "Keep":
    """A function that saves a compiled step."""
    from vit_jax.train.compiled.step import save

    return functools.partial(save, path)


def _has_slices(args: argparse.Namespace) -> bool:
    """Whether anything is planned for several slices."""
    return args.slices > 1 or bool(args.scaling) or "*" in (args.compare or "")


def _joined(texts: list[str]) -> str:
    return "\n".join(texts)


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuses arguments that are out of range or have no effect.

    Raises:
      InputError: names the argument.
    """
    if args.slices != 1 and not args.topology:
        raise InputError(f"--slices={args.slices} needs --topology, the topology of one slice")
    if args.slice_bandwidth is not None and not (args.topology or args.compare):
        raise InputError(f"--slice-bandwidth={args.slice_bandwidth:g} needs --slices above 1")
    if args.slice_bandwidth is not None and not 0 < args.slice_bandwidth <= MAX_GBITS:
        limits = f"above 0, at most {MAX_GBITS:,}"
        raise InputError(f"--slice-bandwidth={args.slice_bandwidth:g}: give Gbit/s {limits}")
    if args.write and not args.search:
        raise InputError(f"--write={args.write} needs --search, which finds what to write")
    if args.search and (args.save or args.compare or args.scaling):
        raise InputError(
            "--search looks for a layout: plan with it for --save, --compare, --scaling"
        )
    if args.search and args.fit_batch:
        raise InputError("--fit-batch keeps the layout that --search looks for: give one of them")
    for flag, value in (("--save", args.save), ("--write", args.write)):
        if value:
            check_file(value, flag)


def _check_published(kind: str, slices: int) -> None:
    """Refuses several slices (or nodes) of a chip whose bandwidth between them is not known."""
    from vit_jax.parallel.hardware import find_chip

    chip = find_chip(kind)
    if chip is None or chip.slice_bandwidth is None:
        raise InputError(
            f"--slices={slices}: no bandwidth between slices is published for {kind}; give "
            "--slice-bandwidth=GBITS, one chip's Gbit/s"
        )

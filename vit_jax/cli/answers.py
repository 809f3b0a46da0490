"""Arguments of `vit_jax plan` about input, checkpoints, failures, cost, other slices, scaling."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from vit_jax.cli.arguments import number, whole
from vit_jax.errors import InputError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from vit_jax.plan.answers.questions import Questions
    from vit_jax.train.run import Dataset, Run


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "--images-per-core",
        type=number(above=True),
        metavar="N",
        help="images per second that one core of a host prepares; `vit_jax data` measures it",
    )
    parser.add_argument(
        "--host-cores",
        type=whole(least=1, most=1_000_000),
        metavar="N",
        help="cores of each host; default: those of the usual machine, where there is one",
    )
    parser.add_argument(
        "--storage-bandwidth",
        type=number(above=True),
        metavar="GB/S",
        help="GB/s that one host writes to the storage of checkpoints",
    )
    parser.add_argument(
        "--copy-bandwidth",
        type=number(above=True),
        default=10.0,
        metavar="GB/S",
        help="GB/s from the chips of a host to its memory, for which training waits (%(default)g, "
        "an assumption)",
    )
    parser.add_argument(
        "--mtbf",
        metavar="HOURS[/chip|/slice|/run]",
        help="mean hours between two failures of one chip (or slice, or of the whole run), e.g. "
        "50000/chip or 6/run",
    )
    parser.add_argument(
        "--restart",
        type=number(),
        metavar="MINUTES",
        help="with --mtbf: minutes from a failure to the next step (10, an assumption)",
    )
    parser.add_argument("--price", type=number(), metavar="PRICE", help="of one chip for an hour")
    parser.add_argument(
        "--chip-power",
        type=number(above=True),
        metavar="WATTS",
        help="of one chip under load; default: as published, where it is",
    )
    parser.add_argument(
        "--compare",
        metavar="TPU:SHAPE[@PRICE],...",
        help="plan for other slices, too, e.g. v5e:8x8@1.2,2*v6e:8x8; one table",
    )
    parser.add_argument(
        "--scaling",
        metavar="CHIPS:CHIPS",
        help="the same batch on 16:4096 chips, say, by formulas",
    )


def questions_of(args: argparse.Namespace) -> "Questions":
    """The questions of the command line.

    Raises:
      InputError: an argument is wrong, or has no effect without another.
    """
    from vit_jax.plan.answers.questions import Questions, parse_mtbf, parse_offers, parse_scaling

    if args.host_cores is not None and args.images_per_core is None:
        raise InputError(f"--host-cores={args.host_cores} needs --images-per-core, their rate")
    if args.restart is not None and args.mtbf is None:
        raise InputError(f"--restart={args.restart:g} needs --mtbf, how often it happens")
    if args.scaling is not None:
        parse_scaling(args.scaling)
    if args.compare is not None:
        parse_offers(args.compare)
    storage = args.storage_bandwidth
    return Questions(
        images_per_core=args.images_per_core,
        host_cores=args.host_cores,
        storage_bandwidth=None if storage is None else storage * 1e9,
        copy_bandwidth=args.copy_bandwidth * 1e9,
        mtbf=None if args.mtbf is None else parse_mtbf(args.mtbf),
        restart=600.0 if args.restart is None else 60 * args.restart,
        price=args.price,
        chip_watts=args.chip_power,
    )


def check_known(args: argparse.Namespace, device_kind: str) -> None:
    """Refuses questions that a plan without days cannot answer.

    Raises:
      InputError: the speed of the devices is unknown.
    """
    from vit_jax.parallel.hardware import find_chip

    asked = [
        flag
        for flag, value in (
            ("--images-per-core", args.images_per_core),
            ("--mtbf", args.mtbf),
            ("--price", args.price),
            ("--chip-power", args.chip_power),
            ("--scaling", args.scaling),
        )
        if value is not None
    ]
    if asked and find_chip(device_kind) is None:
        raise InputError(
            f"{asked[0]}: no peak speed is known for {device_kind}, so that the run has no days; "
            "give --topology, e.g. v5e:2x2"
        )


def scaling_of(
    args: argparse.Namespace, run: "Run", plan: dict[str, Any], bandwidth: float | None
) -> list[dict[str, Any]]:
    """The scaling curve of a run that is planned.

    Raises:
      InputError: --scaling is wrong.
    """
    import dataclasses

    from vit_jax.parallel import hardware
    from vit_jax.plan.answers.questions import parse_scaling
    from vit_jax.plan.answers.scaling import Scaling

    chip = hardware.find_chip(plan["device"])
    assert chip is not None  # `check_known`
    if bandwidth is not None:
        chip = dataclasses.replace(chip, slice_bandwidth=bandwidth)
    asked = plan["input"]
    rate = None
    if asked["step_seconds"] is not None:
        rate = asked["images_per_core"] * asked["host_cores"]
    generation = hardware.TPUS.get((args.topology or "").partition(":")[0])
    slice_chips = int(plan["chips"] // plan["slices"])
    if generation:
        slice_chips = math.prod(generation.pod)
    return Scaling(
        params=run.abstract.params,
        state_bytes=plan["checkpoint"]["bytes"],
        dtype=run.config.model.dtype,
        batch_size=plan["batch_size"],
        flops_per_image=plan["flops_per_image"],
        steps=plan["steps"],
        chip=chip,
        slice_chips=slice_chips,
        mfu=args.mfu,
        images_per_host=rate,
        host_chips=plan["chips"] / plan["hosts"],
        rounds=plan["device"].startswith("TPU"),
    ).curve(parse_scaling(args.scaling))


def comparison(
    args: argparse.Namespace,
    config: "ConfigDict",
    dataset: "Dataset",
    questions: "Questions",
    bandwidth: float | None,
) -> list[dict[str, Any]]:
    """The same run on the slices of --compare.

    Raises:
      InputError: --compare is wrong.
    """
    from vit_jax.plan.answers.compare import compare
    from vit_jax.plan.answers.questions import parse_offers

    return list(
        compare(
            config,
            dataset,
            parse_offers(args.compare),
            questions,
            mfu=args.mfu,
            slice_bandwidth=bandwidth,
        )
    )

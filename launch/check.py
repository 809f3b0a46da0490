"""Checks that a config fits the machines of a launch, before anything is created.

  python launch/check.py --tpu=v6e-64 --slices=2 -- --config.parallel.replica=2 --config=...
  python launch/check.py --devices=32 -- --config=... --workdir=...
  python launch/check.py my_jobset.yaml

Exit status: 0 they fit (a line says what was checked), 2 they do not (a line says why).
"""

import argparse
import math
import re
import sys
from pathlib import Path

import yaml

from vit_jax.config_files import PREFIX, load_config
from vit_jax.errors import InputError, unknown
from vit_jax.parallel.mesh import batch_shards, check_batch_size, check_slices, mesh_sizes
from vit_jax.text import printable, reason

# How much of the number in a TPU's type makes one JAX device. Up to v5p the number counts
# cores; from v4 on the two cores of a chip are one device.
PER_DEVICE = {"v2": 1, "v3": 1, "v4": 2, "v5p": 2, "v5litepod": 1, "v6e": 1}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see `python launch/check.py --help`")


def main() -> int:
    """Runs the check of the command line's arguments; returns the exit status."""
    parser = _Parser(description=__doc__.splitlines()[0])
    parser.add_argument("jobset", nargs="?", help="a JobSet made from launch/gke_*.yaml")
    parser.add_argument("--tpu", help="accelerator type, such as v6e-64")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--devices", type=int)
    ours, train = _split(sys.argv[1:])
    try:
        args = parser.parse_args(ours)
        for name in ("slices", "devices"):
            if (number := getattr(args, name)) is not None and number < 1:
                raise InputError(f"--{name}={number}: give a number from 1")
        if args.jobset:
            devices, args.slices, train = _read(args.jobset)
        elif args.tpu:
            devices = tpu_devices(args.tpu) * args.slices
        elif args.devices is not None:
            devices = args.devices
        else:
            parser.error("give a JobSet, --tpu or --devices")
        print(check(train, devices, args.slices))
    except InputError as error:
        print(f"launch/check.py: {printable(error)}", file=sys.stderr)
        return 2
    return 0


def check(train: list[str], devices: int, slices: int = 1) -> str:
    """Checks the arguments of `vit_jax train` for a number of devices; returns a summary.

    Args:
      train: arguments, among them --config and --workdir.
      devices: number of devices in all slices.
      slices: number of slices, which a slower network connects.

    Raises:
      InputError: --config or --workdir is missing, or the mesh or batch does not fit.
    """
    config = load_config(
        _value(train, "--config"), [word for word in train if word.startswith(PREFIX)]
    )
    workdir = _value(train, "--workdir")
    if "://" in workdir:
        raise InputError(f"--workdir={workdir} is no directory; mount the bucket: docs/launch.md")
    if config.parallel.engine == "pmap":
        sizes, shards = dict(data=devices), devices
    else:
        sizes = mesh_sizes(config.parallel, devices)
        shards = batch_shards(sizes)
        check_slices(sizes["replica"], slices)
    accumulate = config.parallel.accumulate
    check_batch_size(config.batch_size, shards, accumulate=accumulate, name="config.batch_size")
    mesh = " ".join(f"{axis}={size}" for axis, size in sizes.items())
    return f"{devices} devices, mesh {mesh}, batch {config.batch_size}, workdir {workdir}"


def tpu_devices(kind: str) -> int:
    """The number of JAX devices in a slice of an accelerator type.

    Raises:
      InputError: the type is unknown or the number impossible.
    """
    name, _, number = kind.partition("-")
    if name not in PER_DEVICE:
        raise unknown("TPU type", name, PER_DEVICE)
    if not number.isdigit() or not int(number) or int(number) % PER_DEVICE[name]:
        raise InputError(f"TPU type {kind!r} has no usable number; write {name}-32, for example")
    return int(number) // PER_DEVICE[name]


def read_jobset(text: str) -> tuple[int, int, list[str]]:
    """The number of devices and slices of a JobSet, and its arguments of `vit_jax train`.

    Raises:
      InputError: a placeholder CHANGE_... is left, or its numbers disagree.
    """
    if still_open := re.search(r"^[^#\n]*\b(CHANGE_[A-Z]+)", text, re.MULTILINE):
        raise InputError(f"the JobSet still says {still_open[1]}; put your own there")
    (group,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    limits = container["resources"]["limits"]
    (chips,) = (int(n) for name, n in limits.items() if name.endswith(("/tpu", "/gpu")))
    if job["completions"] != job["parallelism"]:
        raise InputError("the JobSet's completions and parallelism differ; make them the same")
    devices = job["parallelism"] * chips
    selector = pod.get("nodeSelector", {})
    if topology := selector.get("cloud.google.com/gke-tpu-topology"):
        there = math.prod(int(side) for side in topology.split("x"))
        if there != devices:
            raise InputError(
                f"topology {topology} has {there} chips, {job['parallelism']} pods of {chips} make "
                f"{devices}; set parallelism and completions to {there // chips}"
            )
    environment = {entry["name"]: entry.get("value") for entry in container.get("env", ())}
    processes = environment.get("JAX_NUM_PROCESSES")
    if processes is not None and int(processes) != job["parallelism"]:
        raise InputError(
            f"JAX_NUM_PROCESSES is {processes}, parallelism {job['parallelism']}; make them equal"
        )
    slices = group.get("replicas", 1)
    return devices * slices, slices, container["args"]


def _read(path: str) -> tuple[int, int, list[str]]:
    """`read_jobset` of a file."""
    try:
        return read_jobset(Path(path).expanduser().read_text())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is no JobSet made from launch/gke_*.yaml") from error


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def _value(train: list[str], flag: str) -> str:
    """The value of an argument of `vit_jax train`."""
    for word in train:
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    raise InputError(f"{flag} is missing; give {flag}=... among the arguments of vit_jax train")


if __name__ == "__main__":
    sys.exit(main())

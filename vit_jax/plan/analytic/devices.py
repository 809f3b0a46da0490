"""Devices of a topology as descriptions: for plans without a compiler, and for GPUs."""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from typing import cast

import jax

from vit_jax.errors import InputError, unknown
from vit_jax.parallel import hardware
from vit_jax.plan.compile import check_slice_count

CHIPS_PER_HOST = 4
MAX_GPUS = 2**16  # more than any machine has; each device costs memory here


@dataclasses.dataclass(frozen=True)
class GpuPlace:
    """A GPU that need not exist, with what a mesh reads of a `jax.Device`."""

    id: int
    device_kind: str
    process_index: int
    slice_index: int  # number of the node
    platform: str = "gpu"


@dataclasses.dataclass(frozen=True)
class TpuPlace:
    """A TPU device that need not exist, with what a mesh reads of a `jax.Device`."""

    id: int
    device_kind: str
    process_index: int
    slice_index: int
    coords: tuple[int, int, int]  # of its chip
    core_on_chip: int
    platform: str = "tpu"


def is_gpus(topology: str) -> bool:
    """Whether a topology is one of GPUs, such as "h100:8x8"."""
    return topology.partition(":")[0] in hardware.GPUS


def generation(topology: str) -> str:
    """The name of a topology's chips: "v5e" of "v5e:16x16".

    Raises:
      InputError: no such chips.
    """
    name = topology.partition(":")[0]
    if name not in hardware.TPUS and name not in hardware.GPUS:
        raise unknown("topology", name, (*hardware.TPUS, *hardware.GPUS))
    return name


def describe_devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """Devices of a topology, in the order in which JAX would list them.

    They serve for meshes and layouts; nothing can be compiled for them or run on them.

    Args:
      topology: "v5e:16x16", a slice of TPUs by the shape of its chips; or "h100:8x4", GPUs as
        nodes x GPUs of a node.
      slices: number of slices of TPUs.

    Raises:
      InputError: no such topology.
    """
    name = generation(topology)
    check_slice_count(slices)
    shape = topology.partition(":")[2]
    sides = tuple(int(side) for side in shape.split("x")) if _is_shape(shape) else ()
    # As `jax.Device` declares no attributes of a kind of device, these need not inherit it.
    if name in hardware.GPUS:
        if slices != 1:
            raise InputError(
                f"--slices={slices} counts slices of TPUs; of GPUs --topology={name}:NODESxGPUS "
                "gives the nodes"
            )
        return cast(list[jax.Device], _gpus(name, topology, sides))
    known = hardware.TPUS[name].slices
    if sides not in known:
        shapes = ", ".join("x".join(map(str, each)) for each in known)
        raise InputError(f"no TPU topology {topology!r}; slices of {name}: {shapes}")
    return cast(list[jax.Device], _tpus(hardware.TPUS[name].kind, sides, slices))


def num_chips(topology: str) -> int:
    """The number of chips or GPUs that the shape of a topology has."""
    return math.prod(int(side) for side in re.findall(r"\d+", topology.partition(":")[2]))


def _is_shape(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,6}(x\d{1,6})*", text))


def _gpus(name: str, topology: str, sides: Sequence[int]) -> list[GpuPlace]:
    """GPUs of `sides` nodes x GPUs."""
    kind, most = hardware.GPUS[name]
    if len(sides) != 2 or min(sides) < 1 or sides[1] > most:
        raise InputError(
            f"no GPU topology {topology!r}: write {name}:NODESxGPUS, with at most {most} GPUs that "
            f"NVLink connects, e.g. {name}:4x{most}"
        )
    if math.prod(sides) > MAX_GPUS:
        raise InputError(f"no GPU topology {topology!r}: at most {MAX_GPUS:,} GPUs are planned for")
    nodes, gpus = sides
    return [
        GpuPlace(node * gpus + i, kind, process_index=node, slice_index=node)
        for node in range(nodes)
        for i in range(gpus)
    ]


def _tpus(kind: str, sides: tuple[int, ...], slices: int) -> list[TpuPlace]:
    """Devices of slices of TPUs; x varies fastest, as in JAX."""
    chip = hardware.find_chip(kind)
    cores = chip.devices if chip else 1
    x, y, z = (*sides, 1, 1)[:3]
    result: list[TpuPlace] = []
    for piece, k, j, i in itertools.product(range(slices), range(z), range(y), range(x)):
        for core in range(cores):
            number = len(result)
            host = number // (CHIPS_PER_HOST * cores)
            result.append(TpuPlace(number, kind, host, piece, (i, j, k), core))
    return result

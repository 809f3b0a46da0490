"""Measures the network before the first step: an all-reduce along each axis of the mesh."""

import dataclasses
import functools
import logging
import statistics
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.parallel import hardware
from vit_jax.parallel.mesh import num_slices

log = logging.getLogger(__name__)

# A group along one axis of a two-dimensional torus that is no ring has a quarter of a chip's links.
SLOW = 0.2  # share of the chip's figure below which something is wrong
REPEATS = 5
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Measured:
    """All-reduces along one axis of a mesh."""

    axis: str
    group: int  # devices
    bandwidth: float  # bytes/s that each device sends, if they form a ring
    published: float | None  # bytes/s of a device over all its links; None: unknown

    @property
    def slow(self) -> bool:
        """Whether the axis is far below the published figure."""
        return self.published is not None and self.bandwidth < SLOW * self.published

    def __str__(self) -> str:
        text = f"{self.axis} ({self.group} devices): {self.bandwidth / 1e9:.3g} GB/s a device"
        if self.published is None:
            return f"{text}; no figure is published for these devices"
        share = self.bandwidth / self.published
        return f"{text}, {share:.0%} of the chip's {self.published / 1e9:.3g} GB/s"


def check_network(mesh: Mesh) -> list[Measured]:
    """Measures every axis of a mesh that has several devices, and reports it.

    All processes must call it. It takes a few seconds, most of them for compiling.

    Args:
      mesh: mesh of the run.

    Returns:
      The measurements, in the order of the axes.
    """
    cpu = mesh.devices.flat[0].platform == "cpu"
    size = (1 if cpu else 64) * MIB
    found = [
        Measured(axis, group, all_reduce_bandwidth(mesh, axis, size), published(mesh, axis))
        for axis, group in mesh.shape.items()
        if group > 1
    ]
    if jax.process_index() == 0:
        for one in found:
            log.info("network: all-reduce along %s", one)
            if one.slow:
                log.warning(
                    "network: %s is slow: under %.0f%% of the published figure; look for a link or "
                    "host that fails, another job on the network, or the wrong interface",
                    *(one.axis, 100 * SLOW),
                )
        if not found:
            log.info("network: one device, nothing to measure")
    return found


def all_reduce_bandwidth(mesh: Mesh, axis: str, size: int) -> float:
    """Bytes/s that each device sends in an all-reduce of `size` bytes along an axis.

    A ring of n devices sends 2 (n - 1) / n of the bytes from each.
    """
    spec = PartitionSpec(mesh.axis_names)
    everywhere = NamedSharding(mesh, spec)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def create():
        return jnp.zeros((mesh.size, size // 4), jnp.float32)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    def summed(values):
        return jax.lax.psum(values, axis)

    values = jax.block_until_ready(summed(create()))  # compiles, and connects the processes
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        values = jax.block_until_ready(summed(values))
        seconds.append(time.perf_counter() - start)
    group = mesh.shape[axis]
    return 2 * size * (group - 1) / group / statistics.median(seconds)


def published(mesh: Mesh, axis: str) -> float | None:
    """The published bytes/s of one device along an axis, one direction; None: unknown."""
    devices = list(mesh.devices.flat)
    chip = hardware.find_chip(devices[0].device_kind)
    if chip is None:
        return None
    crosses = num_slices(devices) > 1 and axis == "replica"
    whole = chip.slice_bandwidth if crosses else chip.network_bandwidth
    return None if whole is None else whole / chip.devices

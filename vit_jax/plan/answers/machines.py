"""Hosts of accelerators, and the power of chips, as their makers publish them."""

import dataclasses
import os
from collections.abc import Sequence

import jax

from vit_jax.parallel import hardware


@dataclasses.dataclass(frozen=True)
class Host:
    """A machine with accelerators."""

    chips: int
    cores: int  # as the operating system counts them: hardware threads


# TPUs: Google Kubernetes Engine's documentation, "Plan TPUs in GKE" (machine types with four
# chips); v3: a TPU VM has four chips and 96 vCPUs. GPUs: the processors of NVIDIA's own systems, by
# the data sheets of DGX A100 (2 x 64 cores), H100, H200 and B200 (2 x 56), two threads a core.
HOSTS = {
    "TPU v3": Host(4, 96),
    "TPU v4": Host(4, 240),
    "TPU v5 lite": Host(4, 112),
    "TPU v5p": Host(4, 208),
    "TPU v6 lite": Host(4, 180),
    "TPU7x": Host(4, 224),
    "NVIDIA A100-SXM4-40GB": Host(8, 256),
    "NVIDIA A100-SXM4-80GB": Host(8, 256),
    "NVIDIA H100 80GB HBM3": Host(8, 224),
    "NVIDIA H200": Host(8, 224),
    "NVIDIA B200": Host(8, 224),
}
# Watts of one chip under load. TPU v3: thermal design power in table 1 of Jouppi et al., "Ten
# Lessons From Three Generations Shaped Google's TPUv4i" (ISCA 2021). v4: the most that was
# measured, table 4 of Jouppi et al., "TPU v4: An Optically Reconfigurable Supercomputer for Machine
# Learning" (ISCA 2023). Nothing is published for later TPUs. GPUs: thermal design power of the data
# sheets.
WATTS = {
    "TPU v3": 450.0,
    "TPU v4": 192.0,
    "Tesla T4": 70.0,
    "Tesla V100-SXM2-16GB": 300.0,
    "Tesla V100-SXM2-32GB": 300.0,
    "Tesla V100-PCIE-16GB": 250.0,
    "Tesla V100-PCIE-32GB": 250.0,
    "NVIDIA A100-SXM4-40GB": 400.0,
    "NVIDIA A100-PCIE-40GB": 250.0,
    "NVIDIA A100-SXM4-80GB": 400.0,
    "NVIDIA A100 80GB PCIe": 300.0,
    "NVIDIA H100 80GB HBM3": 700.0,
    "NVIDIA H100 PCIe": 350.0,
    "NVIDIA H200": 700.0,
    "NVIDIA B200": 1000.0,
    "NVIDIA GB200": 1200.0,
    "NVIDIA L4": 72.0,
    "NVIDIA L40S": 350.0,
    "NVIDIA GeForce RTX 3090": 350.0,
    "NVIDIA GeForce RTX 4090": 450.0,
}


def num_hosts(devices: Sequence[jax.Device]) -> int:
    """The number of hosts that have these devices."""
    return len({device.process_index for device in devices})


def host_cores(devices: Sequence[jax.Device]) -> int | None:
    """Cores of each host; None where no machine with so many chips is in the table."""
    if devices[0].platform == "cpu":
        return os.cpu_count()
    chip = hardware.find_chip(devices[0].device_kind)
    host = HOSTS.get(chip.name) if chip else None
    if chip is None or host is None:
        return None
    chips = len(devices) / chip.devices / num_hosts(devices)
    return host.cores if chips == host.chips else None


def chip_watts(device_kind: str) -> float | None:
    """Watts of one chip under load; None where none are published."""
    chip = hardware.find_chip(device_kind)
    return WATTS.get(chip.name) if chip else None

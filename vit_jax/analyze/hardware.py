"""Accelerators: memory, bandwidth and peak speed, from the vendors' data sheets."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator chip; v3 counts as the chip, which JAX shows as two devices."""

    name: str
    bf16_flops: float  # dense peak, FLOP/s
    memory_bytes: float
    memory_bandwidth: float  # bytes/s
    network_bandwidth: float  # bytes/s, all links of the fast network, one direction
    devices: int = 1  # JAX devices per chip
    cores: int = 1  # TensorCores per chip, the unit of "TPU-core-days"


GIB = 2**30
CHIPS = (
    Chip("TPU v3", 123e12, 32 * GIB, 0.9e12, 82e9, devices=2, cores=2),
    Chip("TPU v4", 275e12, 32 * GIB, 1.2e12, 300e9, cores=2),
    Chip("TPU v5 lite", 197e12, 16 * GIB, 0.82e12, 200e9),
    Chip("TPU v5p", 459e12, 95 * GIB, 2.77e12, 600e9, cores=2),
    Chip("TPU v6 lite", 918e12, 32 * GIB, 1.64e12, 448e9),
    Chip("NVIDIA V100", 125e12, 32 * GIB, 0.9e12, 150e9),  # fp16: it has no bf16
    Chip("NVIDIA A100", 312e12, 80 * GIB, 2.04e12, 300e9),
    Chip("NVIDIA H100", 989e12, 80 * GIB, 3.35e12, 450e9),
    Chip("NVIDIA H200", 989e12, 141 * GIB, 4.8e12, 450e9),
    Chip("NVIDIA B200", 2250e12, 180 * GIB, 8.0e12, 900e9),
    Chip("NVIDIA L4", 121e12, 24 * GIB, 0.3e12, 32e9),
    Chip("NVIDIA GeForce RTX 3090", 71e12, 24 * GIB, 0.94e12, 32e9),
    Chip("NVIDIA GeForce RTX 4090", 165e12, 24 * GIB, 1.01e12, 32e9),
)
# What JAX calls them, where that is not how the data sheet does.
_ALIASES = {"TPU v5": "TPU v5p", "TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`, None where it is not in the table."""
    kind = _ALIASES.get(device_kind, device_kind)
    matches = [chip for chip in CHIPS if kind.startswith(chip.name)]
    return max(matches, key=lambda chip: len(chip.name), default=None)


def peak_flops(device: jax.Device) -> float | None:
    """bf16 FLOP/s of one JAX device, None where unknown (CPUs among others)."""
    chip = find_chip(device.device_kind)
    return chip.bf16_flops / chip.devices if chip else None

"""Accelerators: memory, bandwidth and peak speed from the vendors' data sheets."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator chip; a TPU v3 is one chip, though JAX shows it as two devices."""

    name: str
    bf16_flops: float  # dense peak, FLOP/s
    memory_bytes: float
    memory_bandwidth: float  # bytes/s
    network_bandwidth: float  # bytes/s, all links of the fast network, one direction
    devices: int = 1  # JAX devices per chip
    cores: int = 1  # TensorCores per chip, the unit of "TPU-core-days"
    # bytes/s to other slices (of GPUs: to other nodes), one direction
    slice_bandwidth: float | None = None
    on_chip: int = 0  # bytes of a device's memory on the chip that the compiler manages (VMEM)
    clock: float | None = None  # cycles of a core per second
    axes: int = 0  # axes of the torus that its links form; 0: no torus
    # Which sides of a slice have links between their ends. With two axes: a side of this length.
    # With three: all, if every side is a multiple of this, so that the slice is of whole cubes.
    ring: int = 0

    def wraps(self, sides: tuple[int, ...], axis: int) -> bool:
        """Whether an axis of a slice with sides of so many chips is closed to a ring."""
        if self.axes == 3:
            return all(side % self.ring == 0 for side in sides)
        return sides[axis] == self.ring


GIB = 2**30
MIB = 2**20
GBIT = 1e9 / 8  # bytes
# The chip of the paper's TPUv3-core-days.
TPU_V3 = Chip(
    "TPU v3",
    123e12,
    32 * GIB,
    0.9e12,
    332e9,
    devices=2,
    cores=2,
    axes=2,
    ring=32,
    on_chip=16 * MIB,
    clock=0.94e9,
)
CHIPS = (
    # TPU: the system architecture pages of Cloud TPU's documentation. "Bidirectional" network
    # figures are halved; v3's is its pod's all-reduce bandwidth divided by its chips. The bandwidth
    # between slices is "data center network (DCN) bandwidth per chip" on the page of TPU7x; for v5e
    # the pod's 6.4 Tbit/s divided by its 256 chips. The pages of v3 and v4 give none. Rings: v5e
    # and v6e wrap sides of 16, v4, v5p and TPU7x slices of whole cubes of 4x4x4, v3 the whole pod.
    # VMEM of each core: JAX's jax/_src/pallas/mosaic/tpu_info.py. The clock is the peak over
    # 2 * 128 * 128 FLOPs a cycle of each matrix unit: two a core of v3, four later.
    TPU_V3,
    Chip(
        "TPU v4",
        275e12,
        32 * GIB,
        1.2e12,
        300e9,
        cores=2,
        axes=3,
        ring=4,
        on_chip=32 * MIB,
        clock=1.05e9,
    ),
    Chip(
        "TPU v5 lite",
        *(197e12, 16 * GIB, 0.819e12, 200e9),
        slice_bandwidth=25 * GBIT,
        axes=2,
        ring=16,
        on_chip=128 * MIB,
        clock=1.5e9,
    ),
    Chip(
        "TPU v5p",
        *(459e12, 95 * GIB, 2.765e12, 600e9),
        cores=2,
        slice_bandwidth=50 * GBIT,
        axes=3,
        ring=4,
        on_chip=128 * MIB,
        clock=1.75e9,
    ),
    Chip(
        "TPU v6 lite",
        *(918e12, 32 * GIB, 1.638e12, 400e9),
        slice_bandwidth=100 * GBIT,
        axes=2,
        ring=16,
        on_chip=128 * MIB,
    ),
    Chip(
        "TPU7x",
        *(2307e12, 192 * GIB, 7.38e12, 600e9),
        devices=2,
        cores=2,
        slice_bandwidth=100 * GBIT,
        axes=3,
        ring=4,
        on_chip=64 * MIB,
    ),
    # GPUs: NVIDIA's data sheets, without sparsity, SXM modules where nothing else is said. The fast
    # network is NVLink, of which "total bandwidth" is halved, else PCIe. The bandwidth between
    # nodes is that of one GPU's share of the network cards in NVIDIA's own systems, by their data
    # sheets: DGX A100 (8 x 200 Gbit/s for compute), DGX H100, H200 and B200 (8 x 400 Gbit/s),
    # GB200 NVL72 (ConnectX-7, 400 Gbit/s a GPU). Clouds may give less: --slice-bandwidth.
    Chip("Tesla T4", 65e12, 16 * GIB, 0.32e12, 16e9),  # fp16: it has no bf16
    Chip("Tesla V100-SXM2-16GB", 125e12, 16 * GIB, 0.9e12, 150e9),  # likewise
    Chip("Tesla V100-SXM2-32GB", 125e12, 32 * GIB, 0.9e12, 150e9),
    Chip("Tesla V100-PCIE-16GB", 112e12, 16 * GIB, 0.9e12, 16e9),
    Chip("Tesla V100-PCIE-32GB", 112e12, 32 * GIB, 0.9e12, 16e9),
    Chip("NVIDIA A100-SXM4-40GB", 312e12, 40 * GIB, 1.56e12, 300e9, slice_bandwidth=200 * GBIT),
    Chip("NVIDIA A100-PCIE-40GB", 312e12, 40 * GIB, 1.56e12, 300e9),
    Chip("NVIDIA A100-SXM4-80GB", 312e12, 80 * GIB, 2.04e12, 300e9, slice_bandwidth=200 * GBIT),
    Chip("NVIDIA A100 80GB PCIe", 312e12, 80 * GIB, 1.94e12, 300e9),
    Chip("NVIDIA H100 80GB HBM3", 989e12, 80 * GIB, 3.35e12, 450e9, slice_bandwidth=400 * GBIT),
    Chip("NVIDIA H100 PCIe", 756e12, 80 * GIB, 2.0e12, 300e9),
    Chip("NVIDIA H200", 989e12, 141 * GIB, 4.8e12, 450e9, slice_bandwidth=400 * GBIT),
    Chip("NVIDIA B200", 2250e12, 180 * GIB, 8.0e12, 900e9, slice_bandwidth=400 * GBIT),
    Chip("NVIDIA GB200", 2500e12, 186 * GIB, 8.0e12, 900e9, slice_bandwidth=400 * GBIT),
    Chip("NVIDIA L4", 121e12, 24 * GIB, 0.3e12, 32e9),
    Chip("NVIDIA L40S", 362e12, 48 * GIB, 0.864e12, 32e9),
    Chip("NVIDIA GeForce RTX 3090", 71e12, 24 * GIB, 0.94e12, 32e9),
    Chip("NVIDIA GeForce RTX 4090", 165e12, 24 * GIB, 1.01e12, 32e9),
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """The TPUs of a generation: slices that Cloud TPU offers, by the shape of their chips."""

    kind: str  # JAX's device_kind
    pod: tuple[int, ...]  # a whole pod; the compiler accepts nothing larger
    slices: tuple[tuple[int, ...], ...]  # ascending, up to the pod


_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)),
    *((8, 8, 16), (8, 16, 16)),
)
# Name in --topology -> generation (Cloud TPU's documentation, "TPU configurations").
TPUS = {
    "v3": Generation(
        "TPU v3",
        (32, 32),
        ((2, 2), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32)),
    ),
    "v4": Generation("TPU v4", (16, 16, 16), (*_CUBES, (16, 16, 16))),
    "v5e": Generation("TPU v5 lite", (16, 16), _SQUARES),
    "v5p": Generation("TPU v5", (16, 20, 28), (*_CUBES, (16, 16, 16), (16, 16, 24))),
    "v6e": Generation("TPU v6 lite", (16, 16), _SQUARES),
    "tpu7x": Generation("TPU7x", (16, 24, 24), _CUBES),
}
# Name in --topology -> chip, and the most GPUs that NVLink connects: a node, or a rack of GB200.
GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", 8),
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", 8),
    "h100": ("NVIDIA H100 80GB HBM3", 8),
    "h200": ("NVIDIA H200", 8),
    "b200": ("NVIDIA B200", 8),
    "gb200": ("NVIDIA GB200", 72),
}
# JAX's name -> the table's name, where they differ.
_ALIASES = {"TPU v5": "TPU v5p", "TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`, None where it is not in the table."""
    kind = _ALIASES.get(device_kind, device_kind)
    # Compared as a whole: names of cards with other memory or another bus differ only at the end.
    return next((chip for chip in CHIPS if chip.name == kind), None)


def peak_flops(device: jax.Device) -> float | None:
    """bf16 FLOP/s of one JAX device, None where unknown (CPUs among others)."""
    chip = find_chip(device.device_kind)
    return chip.bf16_flops / chip.devices if chip else None

"""The device mesh: axes replica, data, fsdp, sequence, tensor."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.options import option
from vit_jax.parallel.axes import AXES, BATCH_AXES


@dataclasses.dataclass(frozen=True)
class ParallelOptions:
    """`config.parallel`: sizes of the mesh axes; one may be -1, all remaining devices."""

    engine: str = option(
        "pjit",
        "pjit (sharded global arrays) or pmap (data parallelism with replicated parameters)",
        effect="layout",
        choices=("pjit", "pmap"),
    )
    layout: str = option(
        "given",
        "given (the sizes of the mesh as below), or auto: replica, data, fsdp, tensor, accumulate "
        "and model.remat that have their defaults are chosen when `vit_jax train` or `plan` "
        "starts, for the least predicted step that fits into memory",
        effect="layout",
        choices=("given", "auto"),
    )
    replica: int = option(
        1,
        "size of a mesh axis: data parallelism over the slow network between pods or hosts",
        effect="layout",
    )
    data: int = option(
        -1,
        "size of a mesh axis: data parallelism with replicated parameters; -1: all devices that "
        "the other axes leave",
        effect="layout",
    )
    fsdp: int = option(
        1, "size of a mesh axis: data parallelism with sharded parameters", effect="layout"
    )
    sequence: int = option(
        1,
        "size of a mesh axis: divides the tokens of each image, for sequences that do not fit one "
        "device (context parallelism)",
        effect="layout",
    )
    tensor: int = option(
        1,
        "size of a mesh axis: tensor parallelism, which splits attention heads and MLP width",
        effect="layout",
    )
    replicated_tolerance: float = option(
        0.05,
        "largest share of the parameters that fsdp or tensor may leave replicated; more is an "
        "error",
        effect="layout",
        at_least=0,
    )
    accumulate: int = option(
        1,
        "number of microbatches per step (gradient accumulation)",
        effect="layout",
        at_least=1,
    )
    check_network: bool = option(
        False,
        "before the first step, measure all-reduces along each axis of the mesh and warn where one "
        "is far slower than the chip's published bandwidth",
        effect="course",
    )
    cpu_devices: int = option(
        -1,
        "number of devices to create on a machine without accelerators; 0: one, or as XLA_FLAGS "
        "says; -1: one per core on up to 4 cores, where the batch divides among them and neither "
        "XLA_FLAGS nor several processes decide, else 0 (docs/performance.md)",
        effect="layout",
        at_least=-1,
    )


def mesh_sizes(parallel: ParallelOptions | ConfigDict, num_devices: int) -> dict[str, int]:
    """Sizes of AXES with -1 filled in.

    Raises:
      InputError: more than one -1, a size below 1, or a product that is not `num_devices`.
    """
    sizes = {axis: int(getattr(parallel, axis)) for axis in AXES}
    text = " ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1:
        raise InputError(f"config.parallel: {text}: only one mesh axis may be -1")
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise InputError(f"config.parallel: {text}: sizes must be at least 1, or -1 for the rest")
    if free:
        sizes[free[0]] = num_devices // fixed
    if math.prod(sizes.values()) != num_devices:
        divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
        raise InputError(
            f"config.parallel: {text} does not fit {num_devices} devices; "
            f"the product of the sizes must be {num_devices} (its divisors: {divisors})"
        )
    return sizes


def create_mesh(parallel: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run, `replica` over slices (or hosts) where the machine has several.

    Args:
      parallel: `config.parallel`.
      devices: all devices of all processes; None: those present.

    Raises:
      InputError: sizes that do not fit the devices, or a `replica` that does not fit slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_sizes(parallel, len(devices))
    shape = tuple(sizes.values())
    return Mesh(_arrange(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(shape: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
    """Devices in mesh order: neighbours on the fast network, `replica` on the slow one."""
    slices = num_slices(devices)
    if devices[0].platform == "tpu":
        check_slices(shape[0], slices)
    elif shape[0] % slices:
        slices = 1  # other platforms let any axis cross
    inner = (shape[0] // slices, *shape[1:])
    if slices == 1:
        return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
    outer = (slices, *[1] * (len(shape) - 1))
    return mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, allow_split_physical_axes=True
    )


def num_slices(devices: Iterable[jax.Device]) -> int:
    """The number of parts with a fast network inside: slices of TPUs, hosts of GPUs."""
    return len({slice_of(device) for device in devices})


def slice_of(device: jax.Device) -> int:
    """The number of a device's slice of TPUs, or host of GPUs; 0 where it does not say."""
    return getattr(device, "slice_index", None) or 0


def check_slices(replica: int, slices: int) -> None:
    """Checks that the mesh axis `replica` crosses the network between slices of TPUs.

    Raises:
      InputError: the slices do not divide `replica`.
    """
    if replica % slices:
        raise InputError(
            f"config.parallel.replica is {replica}, and only that axis crosses the slow network "
            f"between the {slices} slices: give --config.parallel.replica={slices} or a multiple"
        )


def batch_shards(sizes: dict[str, int] | Mesh) -> int:
    """The number of parts into which the mesh cuts a batch."""
    sizes = sizes.shape if isinstance(sizes, Mesh) else sizes
    return math.prod(sizes[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, shards: int, *, accumulate: int = 1, name: str) -> None:
    """Checks that a global batch divides over the mesh.

    Raises:
      InputError: it does not; names the nearest batch size that does.
    """
    parts = shards * accumulate
    if batch_size > 0 and batch_size % parts == 0:
        return
    below = max(batch_size // parts, 1) * parts
    nearest = min(below, below + parts, key=lambda size: abs(size - batch_size))
    microbatches = f" of {accumulate} microbatches" if accumulate > 1 else ""
    raise InputError(
        f"{name} {batch_size} does not divide over {shards} batch shards{microbatches}; "
        f"the nearest that does is {nearest}"
    )

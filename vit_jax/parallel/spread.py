"""Arrays whose parts are each at hand on one device only, sent to all that need them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

# The place of a part: start and end along each axis.
Part = tuple[tuple[int, int], ...]


def parts_of(leaf: Any) -> dict[Part, list[jax.Device]]:
    """Part -> the devices that hold it, of all processes, in an order that all share.

    Args:
      leaf: anything with a shape and a sharding.
    """
    found: dict[Part, list[jax.Device]] = {}
    for device, index in leaf.sharding.devices_indices_map(tuple(leaf.shape)).items():
        found.setdefault(_place(index, leaf.shape), []).append(device)
    return {part: sorted(found[part], key=lambda device: device.id) for part in sorted(found)}


def own_parts(array: jax.Array) -> dict[Part, np.ndarray]:
    """Part -> values of those parts that this process's devices hold, each once."""
    found: dict[Part, np.ndarray] = {}
    for shard in array.addressable_shards:
        part = _place(shard.index, array.shape)
        if part not in found:
            found[part] = np.array(shard.data)  # a copy: the array may be donated
    return found


def _place(index: tuple[slice, ...], shape: Sequence[int]) -> Part:
    bounds = (cut.indices(size) for cut, size in zip(index, shape, strict=True))
    return tuple((start, stop) for start, stop, _ in bounds)


def place(
    leaves: Sequence[Any], values: Sequence[Mapping[jax.Device, np.ndarray]]
) -> list[jax.Array]:
    """Arrays in the layout of `leaves`, of whose parts every process has its own.

    Args:
      leaves: objects with shape and sharding.
      values: for each leaf, the value of each device of this process.
    """
    return [
        jax.make_array_from_single_device_arrays(
            tuple(leaf.shape),
            leaf.sharding,
            [jax.device_put(value, device) for device, value in own.items()],
        )
        for leaf, own in zip(leaves, values, strict=True)
    ]


def spread(
    leaves: Sequence[Any], values: Sequence[Mapping[jax.Device, np.ndarray]]
) -> list[jax.Array]:
    """Arrays in the layout of `leaves`, from parts that one device each contributes.

    The devices that hold the same part sum what they have, as integers of the same bits; all
    but one have zeros. All processes must call it with the same leaves.

    Args:
      leaves: objects with shape, dtype and a NamedSharding.
      values: for each leaf, the values of parts by the device of this process that contributes
        them. In all processes together, each part is contributed once.
    """
    bits = [_as_bits(leaf, own) for leaf, own in zip(leaves, values, strict=True)]
    shardings = tuple(leaf.sharding for leaf in leaves)
    dtypes = tuple(np.dtype(leaf.dtype) for leaf in leaves)
    return list(_summed(shardings, dtypes)(bits))


def _as_bits(leaf: Any, own: Mapping[jax.Device, np.ndarray]) -> jax.Array:
    kind = _unsigned(leaf.dtype)
    shape = leaf.sharding.shard_shape(tuple(leaf.shape))
    zeros = np.zeros(shape, kind)
    pieces = [
        jax.device_put(own[device].view(kind) if device in own else zeros, device)
        for device in leaf.sharding.addressable_devices
    ]
    return jax.make_array_from_single_device_arrays(tuple(leaf.shape), leaf.sharding, pieces)


def _unsigned(dtype: Any) -> np.dtype:
    return np.dtype(f"u{np.dtype(dtype).itemsize}")


@functools.lru_cache(maxsize=1)
def _summed(shardings: tuple[NamedSharding, ...], dtypes: tuple[np.dtype, ...]) -> Any:
    def one(bits: jax.Array, sharding: NamedSharding, dtype: np.dtype) -> jax.Array:
        used = {name for entry in sharding.spec for name in _names(entry)}
        others = tuple(name for name in sharding.mesh.axis_names if name not in used)

        def body(part: jax.Array) -> jax.Array:
            part = lax.psum(part, others) if others else part
            if dtype == np.bool_:
                return part.astype(dtype)
            return lax.bitcast_convert_type(part, dtype)

        # Devices differ in what the layout calls one part, until the sum.
        return jax.shard_map(
            body, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec,
            check_vma=False,
        )(bits)  # fmt: skip

    def every(arrays: list[jax.Array]) -> list[jax.Array]:
        return [one(*each) for each in zip(arrays, shardings, dtypes, strict=True)]

    return jax.jit(every, donate_argnums=0, out_shardings=list(shardings))


def _names(entry: Any) -> tuple[str, ...]:
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)

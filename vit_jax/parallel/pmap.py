"""The pmap engine: replicated state, one part of the batch per device, an explicit mean."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.parallel.engines import CompiledStep
from vit_jax.parallel.mesh import mesh_sizes

AXIS_NAME = "batch"
# Mesh axes that only pjit has, and what pmap does instead.
_REFUSED = dict(
    fsdp="replicates parameters", tensor="replicates parameters", sequence="divides batches only"
)


class PmapEngine:
    """Replicated data parallelism. State has no device axis, so checkpoints fit both engines."""

    def __init__(self, parallel: ConfigDict, devices: Sequence[jax.Device] | None = None):
        self.devices = list(jax.devices() if devices is None else devices)
        sizes = mesh_sizes(parallel, len(self.devices))
        for axis, does in _REFUSED.items():
            if sizes[axis] > 1:
                raise InputError(
                    f"config.parallel.{axis}={sizes[axis]} needs engine 'pjit'; pmap {does}: set "
                    "it to 1"
                )
        self.batch_shards = len(self.devices)
        self.num_local = sum(_is_local(device) for device in self.devices)
        self.mesh = Mesh(np.array(self.devices), (AXIS_NAME,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self._pmap = functools.partial(jax.pmap, axis_name=AXIS_NAME, devices=devices)

    def rows(self, batch_size: int) -> np.ndarray:
        """Numbers of the rows of a global batch that this process provides, ascending."""
        per_device = batch_size // self.batch_shards
        places = [i for i, device in enumerate(self.devices) if _is_local(device)]
        return np.concatenate([np.arange(per_device) + i * per_device for i in places])

    def abstract(self, create: Callable[[], Any]) -> Any:
        """A train state's shapes, replicated; nothing is computed."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated),
            jax.eval_shape(create),
        )

    def parameter_sharding(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """The layout of every parameter: a full copy on every device."""
        return self.replicated

    def init(self, create: Callable[[], Any]) -> Any:
        """Runs `create` on every device."""
        return jax.jit(create, out_shardings=self.replicated)()

    def compile_train(
        self, make_step: Callable[..., Callable], abstract: Any, *, frozen: bool = False
    ) -> CompiledStep:
        """Compiles (state, batch) -> (state, metrics); the state's memory is reused."""
        del abstract  # the layout is always the same
        return self._pmap(
            make_step(axis_name=AXIS_NAME),
            in_axes=(None, 0, None) if frozen else (None, 0),
            out_axes=(None, None),
            donate_argnums=0,
        )

    def compile_eval(self, make_step: Callable[..., Callable]) -> CompiledStep:
        """Compiles (params, batch) -> sums over the global batch."""
        return self._pmap(make_step(axis_name=AXIS_NAME), in_axes=(None, 0), out_axes=None)

    def put_batch(self, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """Puts this process's `rows` on its devices, with a leading axis over them."""
        own = [device for device in self.devices if _is_local(device)]
        local = Mesh(np.array(own), (AXIS_NAME,), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(local, PartitionSpec(AXIS_NAME))
        return {
            name: jax.device_put(array.reshape(self.num_local, -1, *array.shape[1:]), sharding)
            for name, array in batch.items()
        }

    def abstract_batch(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Shapes of the result of `put_batch`, for a global batch of these shapes."""

        def cut(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            rows = leaf.shape[0] // self.batch_shards
            return jax.ShapeDtypeStruct((self.num_local, rows, *leaf.shape[1:]), leaf.dtype)

        return {name: cut(leaf) for name, leaf in batch.items()}

    def describe(self, params: Any) -> list[str]:
        """Describes in one line the size of the parameters."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        return [f"parameters: {size:,} bytes on each device"]

    def globalize(self, state: Any) -> Any:
        """The state as arrays of all processes; pmap returns arrays of each process alone."""

        def globalize(leaf: jax.Array) -> jax.Array:
            shards = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape, self.replicated, shards)

        return jax.tree.map(globalize, state)


def _is_local(device: jax.Device) -> bool:
    return device.process_index == jax.process_index()

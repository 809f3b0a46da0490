"""The pjit engine: jax.jit with NamedShardings, for data, fsdp and tensor parallelism."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vit_jax.parallel.axes import BATCH_AXES
from vit_jax.parallel.engines import CompiledStep
from vit_jax.parallel.mesh import batch_shards, create_mesh
from vit_jax.parallel.rules import (
    check_replication,
    describe,
    partition_spec,
    state_shardings,
)


class PjitEngine:
    """Global arrays; XLA inserts the collectives that the layout needs."""

    def __init__(self, parallel: ConfigDict, devices: Sequence[jax.Device] | None = None):
        self.mesh = create_mesh(parallel, devices)
        self.tolerance = parallel.replicated_tolerance
        self.batch_shards = batch_shards(self.mesh)
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.batch_sharding = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

    def rows(self, batch_size: int) -> np.ndarray:
        """Numbers of the rows of a global batch that this process provides, ascending."""
        return sharded_rows(self.batch_sharding, batch_size)

    def abstract(self, create: Callable[[], Any]) -> Any:
        """A train state's shapes and shardings; nothing is computed.

        Raises:
          InputError: more stays replicated than config.parallel.replicated_tolerance.
        """
        with jax.set_mesh(self.mesh):  # as in `init`, which then need not trace it again
            shapes = jax.eval_shape(create)
        check_replication(shapes.params, self.mesh, self.tolerance)
        shardings = state_shardings(shapes, shapes.params, self.mesh)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )

    def parameter_sharding(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        """The layout of one parameter, whether this run's model has it or not."""
        return NamedSharding(self.mesh, partition_spec(path, shape, self.mesh.shape))

    def init(self, create: Callable[[], Any]) -> Any:
        """Runs `create`; its result is created in its layout, without a full copy anywhere."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract(create))
        with jax.set_mesh(self.mesh):
            return jax.jit(create, out_shardings=shardings)()

    def compile_train(
        self, make_step: Callable[..., Callable], abstract: Any, *, frozen: bool = False
    ) -> CompiledStep:
        """Compiles (state, batch) -> (state, metrics); the state's memory is reused."""
        del frozen  # arguments keep the layout that they have
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        step = jax.jit(
            make_step(axis_name=None),
            donate_argnums=0,
            out_shardings=(shardings, self.replicated),
        )
        return _InMesh(step, self.mesh)

    def compile_eval(self, make_step: Callable[..., Callable]) -> CompiledStep:
        """Compiles (params, batch) -> sums over the global batch."""
        step = jax.jit(make_step(axis_name=None), out_shardings=self.replicated)
        return _InMesh(step, self.mesh)

    def put_batch(self, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """This process's `rows` of a global batch as global arrays."""
        rows = self.rows(batch_size)
        return {
            name: _put_rows(array, rows, batch_size, self.batch_sharding)
            for name, array in batch.items()
        }

    def abstract_batch(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        """Shapes of the result of `put_batch`, for a global batch of these shapes."""
        return {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.batch_sharding)
            for name, leaf in batch.items()
        }

    def describe(self, params: Any) -> list[str]:
        """Describes in lines the layout of parameters."""
        return describe(params, self.mesh)

    def globalize(self, state: Any) -> Any:
        """The state as it is: its arrays are already those of all processes."""
        return state


class _InMesh:
    """A jitted function that is traced with the mesh in use."""

    def __init__(self, function: Callable, mesh: Mesh):
        self.function = function
        self.mesh = mesh

    def __call__(self, *args):
        with jax.set_mesh(self.mesh):
            return self.function(*args)

    def lower(self, *args):
        """Traces the function; only shapes and shardings of the arguments are needed."""
        with jax.set_mesh(self.mesh):
            return self.function.lower(*args)


def sharded_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """Rows of an array with `batch_size` rows that this process's devices hold, ascending."""
    spans = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[span] for span in spans]))


def _put_rows(
    array: np.ndarray, rows: np.ndarray, batch_size: int, sharding: NamedSharding
) -> jax.Array:
    def shard(index):
        start, stop, _ = index[0].indices(batch_size)
        first = np.searchsorted(rows, start)
        return array[first : first + stop - start]

    return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, shard)

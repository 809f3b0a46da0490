"""Agreement between the processes of a run."""

import json
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit_jax.text import first_line

log = logging.getLogger(__name__)


def from_first(ask: Callable[[], Any]) -> Any:
    """Calls `ask` on process 0 only and returns its result on every process.

    Args:
      ask: function that returns a JSON value and does not raise.
    """
    if jax.process_count() == 1:
        return ask()
    return _spread(ask() if jax.process_index() == 0 else None, source=0)


def from_process(value: Any, source: int) -> Any:
    """The JSON value of process `source`, on every process."""
    return value if jax.process_count() == 1 else _spread(value, source)


def anywhere(problem: str | None) -> str | None:
    """The problem of the first process that has one, on every process; None if none has."""
    if jax.process_count() == 1:
        return problem
    troubled = multihost_utils.process_allgather(np.array([problem is not None])).ravel()
    if not troubled.any():
        return None
    source = int(np.argmax(troubled))
    return f"process {source}: {_spread(problem, source)}"


def total(count: int) -> jax.Array | int:
    """The sum of all processes' counts; with several processes, an array being computed."""
    if jax.process_count() == 1:
        return count
    mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    counts = np.zeros(jax.local_device_count(), np.int32)
    counts[0] = count
    everywhere = NamedSharding(mesh, PartitionSpec("all"))
    shared = jax.make_array_from_process_local_data(everywhere, counts, (jax.device_count(),))
    return jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(shared)


def gathered(values: np.ndarray) -> jax.Array | np.ndarray:
    """The values of all processes; with several processes, an array being computed.

    Args:
      values: as many numbers on every process, (n,).

    Returns:
      float32 of shape (processes, n), the same on all processes.
    """
    if jax.process_count() == 1:
        return values.astype(np.float32)[None]
    mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    rows = np.zeros((jax.local_device_count(), len(values)), np.float32)
    rows[:] = values
    everywhere = NamedSharding(mesh, PartitionSpec("all"))
    shape = (jax.device_count(), len(values))
    shared = jax.make_array_from_process_local_data(everywhere, rows, shape)
    owners = [device.process_index for device in jax.devices()]
    firsts = np.array([owners.index(process) for process in range(jax.process_count())])
    everyone = NamedSharding(mesh, PartitionSpec())
    return jax.jit(_rows, out_shardings=everyone)(shared, firsts)


def _rows(rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """Some rows of an array; a named function is compiled once."""
    return rows[numbers]


def attempt(act: Callable[[], Any], passing: tuple[type[Exception], ...] = ()) -> str | None:
    """Does something on all processes that may fail on some of them.

    Args:
      act: function called on every process; must not raise before a collective.
      passing: errors that are raised again and end this process.

    Returns:
      The error in one line, the same on all processes; None if all succeeded.
    """
    try:
        act()
    except passing:
        raise
    except Exception as error:
        log.debug("an attempt failed", exc_info=True)
        return anywhere(first_line(error))
    return anywhere(None)


def _spread(value: Any, source: int) -> Any:
    """Broadcasts a value of process `source`, as JSON over the devices' network."""
    is_source = jax.process_index() == source
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = multihost_utils.broadcast_one_to_all(np.int32(len(text)), is_source=is_source)
    text = text if is_source else np.zeros(int(length), np.uint8)
    text = multihost_utils.broadcast_one_to_all(text, is_source=is_source)
    return json.loads(np.asarray(text).tobytes())

"""Processes of one run come to the same conclusion before they go on."""

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
    """What `ask` answers on process 0, on every process; only process 0 asks.

    Args:
      ask: returns what JSON can express and raises nothing.
    """
    if jax.process_count() == 1:
        return ask()
    return _spread(ask() if jax.process_index() == 0 else None, source=0)


def anywhere(problem: str | None) -> str | None:
    """The first process's problem that has one, on every process; None where all are well."""
    if jax.process_count() == 1:
        return problem
    troubled = multihost_utils.process_allgather(np.array([problem is not None])).ravel()
    if not troubled.any():
        return None
    source = int(np.argmax(troubled))
    return f"process {source}: {_spread(problem, source)}"


def total(count: int) -> jax.Array | int:
    """The sum of all processes' counts; on several it may still be on its way."""
    if jax.process_count() == 1:
        return count
    mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    counts = np.zeros(jax.local_device_count(), np.int32)
    counts[0] = count
    everywhere = NamedSharding(mesh, PartitionSpec("all"))
    shared = jax.make_array_from_process_local_data(everywhere, counts, (jax.device_count(),))
    return jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(shared)


def attempt(act: Callable[[], Any], passing: tuple[type[Exception], ...] = ()) -> str | None:
    """Does something on all processes, which may fail on some.

    Args:
      act: what to do; where it waits for other processes, it must not have failed before.
      passing: errors that end this process.

    Returns:
      What went wrong in one line, the same on all; None where all succeeded.
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
    """A value of process `source`, as JSON over the devices' network."""
    is_source = jax.process_index() == source
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = multihost_utils.broadcast_one_to_all(np.int32(len(text)), is_source=is_source)
    text = text if is_source else np.zeros(int(length), np.uint8)
    text = multihost_utils.broadcast_one_to_all(text, is_source=is_source)
    return json.loads(np.asarray(text).tobytes())

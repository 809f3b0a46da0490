"""Joins the processes of one run, and creates CPU devices."""

import logging
import os
import sys

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.parallel.chips import has_tpus
from vit_jax.parallel.mesh import batch_shards, check_batch_size, mesh_sizes
from vit_jax.text import first_line

log = logging.getLogger(__name__)

BY_CORES = -1  # of `config.parallel.cpu_devices`
MOST_CORES = 4  # of a machine where each becomes a device; more were not measured
_made_by_cores = False

# Variables with the number of processes, set by launchers that JAX supports, and a second
# variable that only a launched process has: Slurm sets the number in batch scripts too.
_COUNTS = {"SLURM_NTASKS": "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK"}
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the other processes of a run, if there are any; call before JAX is used.

    Arguments take precedence over the environment (JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES, JAX_PROCESS_ID). Without either, JAX itself finds the others on
    Cloud TPU, Slurm and Open MPI. A single process needs none of this.

    Args:
      coordinator: host:port of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      timeout: seconds to wait for the others, and until a silent one counts as dead.

    Raises:
      InputError: incomplete arguments, or the others do not arrive in time.
    """
    address = coordinator or os.environ.get(ADDRESS) or None
    count, number = _number(num_processes, COUNT), _number(process_id, INDEX)
    given = (address, count, number)
    explicit = any(value is not None for value in given)
    if explicit and None in given:
        raise InputError(
            "a run on several processes wants --coordinator, --num-processes and --process-id "
            f"(or {ADDRESS}, {COUNT} and {INDEX}), all three"
        )
    if not explicit and not _found_by_jax():
        return
    if count is not None and number is not None and not 0 <= number < count:
        raise InputError(
            f"process {number} of {count}: --process-id counts from 0 to --num-processes minus one"
        )
    if explicit:
        # Logged first, because JAX's runtime ends the process itself if the others do not come.
        log.info(
            "process %d of %d joins the others at %s; JAX ends it if they are not there within "
            "%d s",
            *(number, count, address, timeout),
        )
    try:
        # JAX finds the values that are None.
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=number,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=timeout,
        )
    except (RuntimeError, ValueError) as error:
        where = f"at {address} " if explicit else ""
        raise InputError(
            f"process {number if explicit else ''} did not find the others {where}within "
            f"{timeout} s: {first_line(error)}"
        ) from error


def make_cpu_devices(count: int, name: str = "config.parallel.cpu_devices") -> None:
    """Creates `count` JAX devices on this machine's CPU.

    Args:
      count: number of devices; 0: as many as there are; BY_CORES: one per core where it is known to
        be as fast or faster, and nothing else has decided.
      name: name of the option, for the error.

    Raises:
      InputError: JAX was used before, with another number.
    """
    if count == BY_CORES:
        _make_one_per_core()
        return
    if not count:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except ValueError as error:
        raise InputError(f"{name} is {count}: {error}") from error
    except RuntimeError as error:
        present = jax.local_device_count("cpu")
        if present != count:
            raise InputError(
                f"{name} is {count}, but JAX was used before and has {present}; use it after "
                "the run has begun, or leave that at 0"
            ) from error


def _make_one_per_core() -> None:
    global _made_by_cores
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    told |= "JAX_NUM_CPU_DEVICES" in os.environ or jax.distributed.is_initialized()
    if told or not 2 <= cores <= MOST_CORES:
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:
        return  # JAX has its devices already
    _made_by_cores = True


def suited_devices(parallel: ConfigDict, batch_size: int) -> list[jax.Device] | None:
    """The devices for a mesh and a batch; None: all.

    Devices that BY_CORES made are not the user's choice: where the batch or the given sizes of
    the mesh do not suit them, the run has only the first.
    """
    if parallel.cpu_devices != BY_CORES or not _made_by_cores:
        return None
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return None
    if _suits(parallel, batch_size, len(devices)) or not _suits(parallel, batch_size, 1):
        return None
    return devices[:1]


def _suits(parallel: ConfigDict, batch_size: int, count: int) -> bool:
    try:
        shards = batch_shards(mesh_sizes(parallel, count))
        check_batch_size(batch_size, shards, accumulate=parallel.accumulate, name="batch")
    except InputError:
        return False
    return True


def _number(given: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if given is not None or text is None:
        return given
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{variable} is {text!r}; it must be a whole number") from None


def _found_by_jax() -> bool:
    """Whether this is one of several processes that JAX can find without being told."""
    for count, also in _COUNTS.items():
        if int(os.environ.get(count) or 1) > 1 and also in os.environ:
            return True
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    # Without TPUs, the TPU compiler sets the variable to a sentence.
    return ("," in hosts and " " not in hosts) or has_tpus()

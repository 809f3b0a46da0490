"""Joins the processes of one run, and creates CPU devices."""

import logging
import os

import jax

from vit_jax.errors import InputError
from vit_jax.parallel.chips import has_tpus
from vit_jax.text import first_line

log = logging.getLogger(__name__)

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
    """Creates `count` JAX devices on this machine's CPU; 0: leaves the number as it is.

    Args:
      count: number of devices.
      name: name of the option, for the error.

    Raises:
      InputError: JAX was used before, with another number.
    """
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

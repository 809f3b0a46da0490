"""The arguments of commands that can run in several processes."""

import argparse
import os
import sys

from vit_jax.cli.arguments import whole
from vit_jax.text import printable

MOST_SECONDS = 10**6  # JAX multiplies them by up to a thousand, in 32 bits
# Arguments that may differ between processes; overrides are compared as parts of the config.
_OWN = ("coordinator", "num_processes", "process_id", "process_timeout", "overrides")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds arguments that are needed unless Slurm, Open MPI or Cloud TPU starts the processes."""
    group = parser.add_argument_group("several processes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", type=whole(1), help="number of processes")
    group.add_argument("--process-id", type=whole(0), help="index of this process, from 0")
    group.add_argument(
        "--process-timeout",
        type=whole(1, MOST_SECONDS),
        default=300,
        metavar="SECONDS",
        help="how long to wait for a process that is missing or stops responding (%(default)s)",
    )


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes, if there are any, and compares versions and arguments.

    Raises:
      InputError: a process is missing, or was started differently.
    """
    import jax

    from vit_jax import __version__
    from vit_jax.parallel import same
    from vit_jax.parallel.distributed import initialize

    initialize(args.coordinator, args.num_processes, args.process_id, args.process_timeout)
    if jax.distributed.is_initialized():
        _keep_output_clean()
        versions = {"the version of vit_jax": __version__, "the version of JAX": jax.__version__}
        arguments = {
            f"--{name.replace('_', '-')}": value
            for name, value in vars(args).items()
            if name not in _OWN
        }
        same.compare(versions | arguments)


def join_and_share_cores(args: argparse.Namespace) -> None:
    """`join_processes` for commands without `config.parallel`, whose default they take."""
    join_processes(args)
    from vit_jax.parallel.distributed import BY_CORES, make_cpu_devices

    make_cpu_devices(BY_CORES)


def _keep_output_clean() -> None:
    """Redirects native stdout to stderr, so that `--json` prints only JSON: Gloo logs to stdout."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = output


def print_once(text: str) -> None:
    """Prints what all processes know, in the first of them; escapes all but newlines."""
    import jax

    if jax.process_index() == 0:
        print("\n".join(map(printable, text.split("\n"))))

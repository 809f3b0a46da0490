"""The arguments of commands that run on many processes."""

import argparse
import os
import sys

from vit_jax.text import printable

# Arguments that each process has of its own; overrides are compared as parts of the config.
_OWN = ("coordinator", "num_processes", "process_id", "process_timeout", "overrides")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what only launches without Slurm, Open MPI or Cloud TPU need."""
    group = parser.add_argument_group("several processes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", type=int, help="how many processes there are")
    group.add_argument("--process-id", type=int, help="which one this is, from 0")
    group.add_argument(
        "--process-timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="how long to wait for a process that does not arrive or falls silent",
    )


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes, if there are any, and compares versions and arguments.

    Raises:
      InputError: they did not arrive, or one of them was started in another way.
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


def _keep_output_clean() -> None:
    """Leaves standard output to Python: what Gloo prints there when processes meet goes to errors.

    Else --json would print other things than JSON.
    """
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = output


def print_once(text: str) -> None:
    """Prints what all processes know, in the first of them; escapes all but newlines."""
    import jax

    if jax.process_index() == 0:
        print("\n".join(map(printable, text.split("\n"))))

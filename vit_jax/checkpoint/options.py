"""`config.checkpoint`: when a run saves its state, and which checkpoints stay."""

import dataclasses
import os

from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.options import Duration, option


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """`config.checkpoint`; a run that ends or is preempted always saves its state."""

    every: Duration = option(
        Duration(), "interval between checkpoints (None: see checkpoint.minutes)", effect="course"
    )
    minutes: float = option(
        10.0,
        "minutes between checkpoints if `every` is None; more if saving would take over 1% of the "
        "time; 0: save only at the end",
        effect="course",
        at_least=0,
    )
    keep: int = option(2, "number of newest checkpoints to keep", effect="course", at_least=1)
    keep_every: int = option(
        0,
        "keep every checkpoint whose step is a multiple of this number; 0: off",
        effect="course",
        at_least=0,
    )
    best: str = option(
        "",
        'metric whose best checkpoint is kept too, such as "eval/test/top1"; for losses, the '
        "lowest is best. Every evaluated state is then saved",
        effect="course",
    )
    patience: int = option(
        0,
        "end the run after this number of evaluations in a row in which the metric of `best` has "
        "not improved; 0: never",
        effect="course",
        at_least=0,
    )
    local: str = option(
        "",
        "directory of each host, in its memory (/dev/shm) or on its own disk, in which each "
        "process also keeps copies of its part of the state: when a slice is lost, the others' "
        "copies bring the run back to a later step than the last checkpoint; '': none",
        effect="course",
    )
    local_every: Duration = option(
        Duration(),
        "interval between local copies (None: a minute, or more if it would take over 1% of the "
        "time; 0: none)",
        effect="course",
    )
    retries: int = option(
        3,
        "number of further attempts to save the final state or the state of a preempted run",
        effect="course",
        at_least=0,
    )
    max_failures: int = option(
        0,
        "number of consecutive failed saves that end the run; 0: continue and save again later",
        effect="course",
        at_least=0,
    )
    timeout: int = option(
        1200,
        "seconds that a process waits for the others to save their parts",
        effect="course",
        at_least=1,
    )


def check_local(directory: str) -> None:
    """Checks `config.checkpoint.local`, without making anything.

    Raises:
      InputError: it cannot be a directory of this host.
    """
    if not directory:
        return
    given = f"config.checkpoint.local is {directory}"
    remedy = "give a directory in memory, or on the host's own disk"
    if "://" in directory:
        raise InputError(f"{given}, which is no directory of a host; {remedy}")
    path = expand(directory).absolute()
    found = next(parent for parent in (path, *path.parents) if parent.exists())
    if not found.is_dir() or not os.access(found, os.W_OK | os.X_OK):
        why = "cannot be written to" if found.is_dir() else "is not a directory"
        raise InputError(f"{given}, but {found} {why}; {remedy}")

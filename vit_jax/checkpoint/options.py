"""`config.checkpoint`: when a run saves its state, and which checkpoints stay."""

import dataclasses

from vit_jax.options import Duration, option


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """A run that ends, or that is preempted, saves its state in any case."""

    every: Duration = option(
        Duration(), "between checkpoints; None: by the clock, see `minutes`", effect="course"
    )
    minutes: float = option(
        10.0,
        "between checkpoints where `every` is None; longer where saving would take over a "
        "hundredth of the time; 0: only at the end",
        effect="course",
        at_least=0,
    )
    keep: int = option(2, "how many of the last ones stay", effect="course", at_least=1)
    keep_every: int = option(
        0, "checkpoints of steps that this divides stay; 0: none", effect="course", at_least=0
    )
    best: str = option(
        "",
        'metric whose best checkpoint stays too, such as "eval/test/top1"; of losses the lowest. '
        "Every evaluated state is saved then",
        effect="course",
    )
    retries: int = option(
        3,
        "further attempts to save the last state, or that of a preempted run",
        effect="course",
        at_least=0,
    )
    max_failures: int = option(
        0,
        "failed attempts to save in a row that end the run; 0: it goes on, and saves again later",
        effect="course",
        at_least=0,
    )
    timeout: int = option(
        1200,
        "seconds until a process stops waiting for the others to save their parts",
        effect="course",
        at_least=1,
    )

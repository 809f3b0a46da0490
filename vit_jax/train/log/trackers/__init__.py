"""Places that metrics of a run go to, besides metrics.jsonl: one file each, by name."""

from vit_jax.train.log.trackers.tracker import (
    TRACKERS,
    Histogram,
    Memory,
    Start,
    Tracker,
    Trackers,
    Writer,
    create_trackers,
)

__all__ = [
    "TRACKERS",
    "Histogram",
    "Memory",
    "Start",
    "Tracker",
    "Trackers",
    "Writer",
    "create_trackers",
]

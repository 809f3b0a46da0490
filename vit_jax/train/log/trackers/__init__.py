"""Places that metrics of a run go to, besides metrics.jsonl: one file each, by name."""

from vit_jax.train.log.trackers import csv_file, mlflow_run, wandb_run  # noqa: F401  registered
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

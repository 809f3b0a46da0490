"""The size of a checkpoint, the time to write it, and how long training waits for it."""

from typing import Any

from vit_jax.checkpoint.interval import MAX_COST


def checkpoint(
    *,
    state_bytes: int,
    hosts: int,
    copy_bandwidth: float,
    storage_bandwidth: float | None,
    minutes: float | None,
    every_seconds: float | None,
) -> dict[str, Any]:
    """The checkpoints of a run.

    Saving is asynchronous. Training waits until each host has copied its part of the state from
    its chips to its memory; the file is written while training goes on. If a file takes longer than
    the interval, the next save waits for it. Orbax divides replicated arrays among the replicas, so
    every host has an equal part.

    Args:
      state_bytes: bytes of parameters, optimizer state and averaged parameters.
      hosts: number of hosts.
      copy_bandwidth: bytes/s from the chips of one host to its memory.
      storage_bandwidth: bytes/s that one host writes; None: unknown.
      minutes: interval by the clock; it is longer if the waiting would take more than MAX_COST of
        the time. None or 0: not by the clock.
      every_seconds: interval in steps, as seconds; wins over `minutes`. None: by the clock.

    Returns:
      `bytes`, `copy_seconds`, `write_seconds` (None: unknown), `stall_seconds` (for which training
      waits at each checkpoint), `interval_seconds` (None: only at the end) and `stall_share`, the
      part of the time that is lost.
    """
    copy = state_bytes / hosts / copy_bandwidth
    write = None if storage_bandwidth is None else state_bytes / hosts / storage_bandwidth
    interval = every_seconds
    if interval is None and minutes:
        interval = max(60 * minutes, copy / MAX_COST)
    stall = copy
    if interval is not None and write is not None:
        stall += max(0.0, write - interval)
    return dict(
        bytes=state_bytes,
        copy_seconds=copy,
        write_seconds=write,
        stall_seconds=stall,
        interval_seconds=interval,
        stall_share=0.0 if interval is None else stall / (interval + stall),
    )

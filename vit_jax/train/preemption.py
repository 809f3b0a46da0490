"""Notices that the machine is about to be taken away, on all processes at the same step."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class PreemptionWatch:
    """SIGTERM, or the platform's notice, asks the run to save and stop.

    With several processes `jax.distributed` spreads the notice and agrees on the
    step; with one a signal handler suffices.
    """

    def __init__(self):
        self._asked = threading.Event()
        self._distributed = jax.process_count() > 1
        self._previous = None
        # Python lets only the main thread handle signals.
        if not self._distributed and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, lambda *_: self._asked.set())

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`; every process gets the same answer."""
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()

    def close(self) -> None:
        """Gives SIGTERM back its former meaning."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

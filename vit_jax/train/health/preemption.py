"""Notices requests to stop a run, on all processes at the same step."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from vit_jax.checkpoint.stored import steps_in

log = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status after a second SIGINT


class PreemptionWatch:
    """Watches for a request to save and stop: SIGTERM, the platform's notice, or Ctrl-C.

    With several processes, `jax.distributed` takes SIGTERM, spreads the notice and agrees on
    the step. A second Ctrl-C ends the process at once, also while it compiles or waits for a
    device: a thread reads the signals, as Python's handlers would run only after that.

    Attributes:
      lost: function that says what an immediate stop would lose; set by the run.
    """

    def __init__(self):
        self.lost: Callable[[], str] = lambda: "nothing is lost"
        self._distributed = jax.process_count() > 1
        self._asked_by: str | None = None
        self._former: dict[signal.Signals, Any] = {}
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            self._listen()

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`; the same on every process. Call it for every step."""
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked_by is not None

    @property
    def reason(self) -> str:
        """What asked the run to stop."""
        return self._asked_by or "a notice"

    def close(self) -> None:
        """Restores the former signal handlers."""
        if not self._former:
            return
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        os.close(self._write)  # ends the thread

    def _listen(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        numbers = [signal.SIGINT] if self._distributed else [signal.SIGINT, signal.SIGTERM]
        for number in numbers:
            self._former[number] = signal.signal(number, lambda *_: None)
        self._former_fd = signal.set_wakeup_fd(self._write)
        threading.Thread(target=self._hear, name="signals", daemon=True).start()

    def _hear(self) -> None:
        with os.fdopen(self._read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                if numbers[0] == signal.SIGINT:
                    self._interrupt()
                elif numbers[0] == signal.SIGTERM:
                    self._asked_by = self._asked_by or "SIGTERM"

    def _interrupt(self) -> None:
        if self._asked_by == "Ctrl-C":
            try:
                log.error("stopped at once: %s", self.lost())
            finally:  # even if the disk with the checkpoints is gone
                os._exit(INTERRUPTED)
        self._asked_by = "Ctrl-C"
        log.warning("saving the state, then stopping; Ctrl-C again stops at once")
        if self._distributed:
            os.kill(os.getpid(), signal.SIGTERM)  # for jax.distributed, which tells the others


def lost_since(step: int, checkpoints: Path) -> str:
    """Says what is lost if a run ends after `step`, given the directory of its checkpoints."""
    newest = max(steps_in(checkpoints), default=0)
    if newest >= step:
        return "nothing is lost"
    where = f"the newest checkpoint is of step {newest}" if newest else "there is no checkpoint"
    return f"{step - newest} steps are lost, {where}"

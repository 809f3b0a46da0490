"""Notices requests to stop a run, on all processes at the same step."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from vit_jax.checkpoint.stored import steps_in
from vit_jax.errors import Preempted
from vit_jax.train.health.signals import Listener, end_start, take_over

log = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status after a second SIGINT


class PreemptionWatch:
    """Watches for a request to save and stop: SIGTERM, the platform's notice, or Ctrl-C.

    With several processes, `jax.distributed` takes SIGTERM, spreads the notice and agrees on
    the step. A second Ctrl-C ends the command at once, also while it compiles or waits for a
    device: a thread reads the signals, as Python's handlers would run only after that. Before
    the first step is done there is nothing to save: the command ends at once.

    In a program or notebook, where no command has begun to listen to signals, Ctrl-C never ends
    the process: before the first step and the second time it raises KeyboardInterrupt at once.

    Attributes:
      lost: function that says what an immediate stop would lose; set by the run.
    """

    def __init__(self):
        self.lost: Callable[[], str] = lambda: "nothing is lost"
        self._distributed = jax.process_count() > 1
        self._asked_by: str | None = None
        # A command that has not begun its first step ends at once, if it is alone.
        handled_by_jax = [signal.SIGTERM] if self._distributed else []
        self._of_command = take_over(keep=handled_by_jax)
        self._ends_start = self._of_command and not self._distributed
        self._interrupts = 0
        self._first: int | None = None
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if n not in handled_by_jax]
        self._listener = Listener(numbers, self._hear, self._hear_in_main)

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`; the same on every process. Call it for every step."""
        if self._first is None:
            self._first = step
        elif step > self._first:
            self._ends_start = False
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked_by is not None

    @property
    def reason(self) -> str:
        """What asked the run to stop."""
        return self._asked_by or "a notice"

    def stopped(self, text: str) -> BaseException:
        """The exception that ends a run whose state is saved, with this message."""
        if self._asked_by == "Ctrl-C" and not self._of_command:
            return KeyboardInterrupt(text)
        return Preempted(text)

    def close(self) -> None:
        """Restores the former signal handlers."""
        self._listener.close()

    def _hear(self, number: int) -> None:
        if self._ends_start:
            end_start(number)
        if number == signal.SIGINT:
            self._interrupt()
        elif number == signal.SIGTERM:
            self._asked_by = self._asked_by or "SIGTERM"

    def _hear_in_main(self, number: int) -> None:
        """In a program or notebook: ends what the main thread does, unless the state is saved."""
        if number != signal.SIGINT or self._of_command:
            return
        self._interrupts += 1
        if self._interrupts > 1 or self._first is None:
            raise KeyboardInterrupt(f"stopped at once: {self.lost()}")

    def _interrupt(self) -> None:
        if not self._of_command and (self._first is None or self._asked_by):
            return  # the main thread raises KeyboardInterrupt
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

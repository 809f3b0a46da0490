"""A watchdog: says where a run hangs, and ends it if asked to."""

import dataclasses
import faulthandler
import logging
import os
import sys
import threading
import time

from vit_jax.options import option
from vit_jax.train.log.clock import Clock

log = logging.getLogger(__name__)

HUNG = 70  # exit status of a process that its watchdog ends


@dataclasses.dataclass(frozen=True)
class WatchdogOptions:
    """`config.watchdog`."""

    seconds: float = option(
        600.0,
        "print the stacks of all threads when no step or batch of an evaluation ends for this "
        "many seconds; 0: never",
        effect="course",
        at_least=0,
    )
    exit: bool = option(
        False, "after printing the stacks, end the process with exit status 70", effect="course"
    )


class Watchdog:
    """Prints the stacks of all threads when no `beat` came for some time.

    It sleeps until the first beat and after every `pause`, so that compilation, which may take
    long, causes no alarm.

    Attributes:
      note: what else its message says, such as which process lagged.
    """

    def __init__(self, config: WatchdogOptions, clock: Clock):
        """Starts watching.

        Args:
          config: `config.watchdog`.
          clock: clock of the run, which names the current phase.
        """
        self._seconds, self._exit, self._clock = config.seconds, config.exit, clock
        self._beat: float | None = None
        self._step = 0
        self.note = ""
        self._closed = threading.Event()
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, step: int | None = None) -> None:
        """Notes that a step, or a batch of an evaluation, has ended."""
        self._step = self._step if step is None else step
        self._beat = time.monotonic()

    def pause(self) -> None:
        """Sleeps until the next beat."""
        self._beat = None

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self) -> None:
        told = None
        while not self._closed.wait(self._seconds / 10):
            beat = self._beat
            if beat is None or beat == told or time.monotonic() - beat < self._seconds:
                continue
            told = beat  # each hang is reported once
            self._tell()

    def _tell(self) -> None:
        log.error(
            "watchdog: nothing ended for %g s after step %d, in phase %r%s; stacks of all threads:",
            *(self._seconds, self._step, self._clock.current),
            f"; at the last log step {self.note}" if self.note else "",
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        if self._exit:
            log.error("watchdog: ending the process with status %d", HUNG)
            os._exit(HUNG)

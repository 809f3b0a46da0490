"""Signals that are heard at once, also while Python waits for a compilation or a device."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

PREEMPTED = 75  # exit status: the same command goes on from what is saved


class Listener:
    """Calls a function in a thread of its own when a signal arrives.

    Python's own handlers would run only once the main thread is back from C. Python lets only
    the main thread handle signals: a listener that is made in another thread hears nothing.
    """

    def __init__(
        self,
        numbers: Sequence[signal.Signals],
        act: Callable[[int], None],
        in_main: Callable[[int], None] = lambda number: None,
    ):
        """Begins to listen.

        Args:
          numbers: of the signals.
          act: what is called with the number of each signal.
          in_main: called with the number in the main thread, once it is back in Python; may raise.
        """
        self._act = act
        self._former: dict[signal.Signals, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        for number in numbers:
            self._former[number] = signal.signal(number, lambda number, _: in_main(number))
        self._former_fd = signal.set_wakeup_fd(self._write)
        threading.Thread(target=self._hear, name="signals", daemon=True).start()

    def close(self, keep: Sequence[signal.Signals] = ()) -> None:
        """Restores the former signal handlers, but for signals that others handle by now."""
        if not self._former:
            return
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            if number not in keep:
                signal.signal(number, handler)
        self._former = {}
        os.close(self._write)  # ends the thread

    def _hear(self) -> None:
        with os.fdopen(self._read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(1):
                self._act(numbers[0])


def end_start(number: int) -> None:
    """Ends a run that has not begun its first step; nothing is lost by it."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    text = f"vit_jax: stopped by {name} before the first step; the same command starts again\n"
    try:
        os.write(sys.stderr.fileno(), text.encode())
    finally:
        os._exit(PREEMPTED)


_start: Listener | None = None


def end_start_on_signals() -> None:
    """From now on SIGTERM and Ctrl-C end this process, until `take_over`."""
    global _start
    _start = Listener((signal.SIGINT, signal.SIGTERM), end_start)


def take_over(keep: Sequence[signal.Signals] = ()) -> bool:
    """Undoes `end_start_on_signals`, but for signals that others handle by now.

    Returns:
      Whether it was in force.
    """
    global _start
    if _start is None:
        return False
    _start.close(keep)
    _start = None
    return True

"""Lines on standard error while a step compiles, which takes minutes."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

EVERY = 30  # seconds between two lines


@contextlib.contextmanager
def announced(what: str, every: float = EVERY) -> Iterator[None]:
    """Says what begins, then from time to time for how long it has been under way.

    Args:
      what: work in a few words, such as "compiling the step for 256 TPU v5 lite".
      every: seconds between two lines.
    """
    begun, ended = time.monotonic(), threading.Event()
    _say(f"{what}; this takes from seconds to minutes")

    def repeat() -> None:
        while not ended.wait(every):
            _say(f"{what}: {time.monotonic() - begun:.0f} s so far")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""Prefetching: the next batch is on the device before the step needs it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any

_END = object()


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any]) -> Generator[Any, None, None]:
    """Yields `place(batch)` for each batch, one of them ahead of the consumer.

    Reading and placing happen in a separate thread; their exceptions are raised here. The
    thread reads a batch only after the one before is taken. Closing the iterator ends it.
    """
    ready: queue.Queue = queue.Queue()
    wanted = threading.Semaphore(1)
    stop = threading.Event()

    def work() -> None:
        try:
            waiting = iter(batches)
            while True:
                wanted.acquire()
                if stop.is_set():
                    return
                ready.put((place(next(waiting)), None))
        except StopIteration:
            ready.put((_END, None))
        except BaseException as error:  # handed to the consumer, whatever it is
            ready.put((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            wanted.release()
            yield item
    finally:
        stop.set()
        wanted.release()
        thread.join(timeout=5.0)

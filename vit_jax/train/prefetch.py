"""Batches on the device before the step needs them."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_END = object()


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    """Yields `place(batch)` for each batch, up to `depth` of them ahead of the consumer.

    Reading and placing happen in a thread of their own; what they raise is raised
    here. Closing the iterator ends the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=max(1, depth))
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                if stop.is_set():
                    return
                put((place(batch), None))
            put((_END, None))
        except BaseException as error:  # handed to the consumer, whatever it is
            put((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join(timeout=5.0)

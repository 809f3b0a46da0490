"""What Orbax leaves behind when a save fails: tracebacks of its tasks, threads that wait.

The error itself is raised, and the run says it in one line.
"""

import contextlib
import functools
import logging
import sys
import threading
import traceback
import warnings
from typing import Any


@functools.cache
def silence() -> None:
    """Drops what is printed about the other tasks of a failed save, which may be hundreds."""
    logging.getLogger("asyncio").addFilter(_is_news)
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited")
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # TensorStore's, from writes that end after the save has failed.
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook


def _is_news(record: logging.LogRecord) -> bool:
    """Whether asyncio says anything else than that a task of Orbax's failed as well."""
    message = record.getMessage()
    if "exception was never retrieved" not in message:
        return True
    # A task names its function; what a thread did for it is only in the traceback.
    trace = traceback.format_exception(*record.exc_info) if record.exc_info else []
    return "orbax" not in message + "".join(trace)


def release_threads() -> None:
    """Ends threads that wait for a failed save, up to `config.checkpoint.timeout`.

    They would keep the process from ending. Without Orbax's internals as they are now, nothing
    happens.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ != "_SignalingThread":
            continue
        with contextlib.suppress(Exception):
            from orbax.checkpoint._src.futures import future

            waiting: Any = thread
            waiting.cancel()
            future.set_signals(waiting._receive_signals, operation_id=waiting._operation_id)

"""Memory of devices and of this process."""

import resource
import sys
from pathlib import Path

import jax

_STATUS = Path("/proc/self/status")  # Linux


def peak_memory() -> int:
    """The most bytes in use so far: of this process's first device, or of the process.

    CPUs report nothing of their own; there it is the largest resident set of the process.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    # Of a process that another started, getrusage knows the other's peak where that was larger.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def used_memory() -> tuple[int, int]:
    """Bytes in use on this process's first device, and bytes that it has.

    CPUs report nothing of their own; there it is `peak_memory` and 0. Nothing waits for a device.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" not in stats:
        return peak_memory(), 0
    return stats["bytes_in_use"], stats.get("bytes_limit", 0)

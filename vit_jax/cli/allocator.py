"""Memory settings of the C library, which it reads only when a process starts."""

import os
import sys

# XLA on CPUs takes its scratch memory anew at every step. Huge pages, kept instead of given
# back, spare most page faults: the gradient of a small ViT takes about 0.6 of the time.
TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 64 * 2**30,
    "glibc.malloc.top_pad": 256 * 2**20,
}


def restart_with_huge_pages() -> None:
    """Starts this process again, under the same id, with TUNABLES in its environment.

    Only on Linux, and not where the environment already has such settings.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    settings = ":".join(f"{name}={value}" for name, value in TUNABLES.items())
    environment = dict(os.environ, GLIBC_TUNABLES=settings)
    # As it was started: where `-m` was not said, the working directory holds no modules.
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)

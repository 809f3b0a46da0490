"""What a command does before its work: memory settings, compiled programs, quick imports."""

import contextlib
import gc
import hashlib
import importlib
import os
import sys
import time
from pathlib import Path
from types import ModuleType

# XLA on CPUs takes its scratch memory anew at every step. Huge pages, kept instead of given
# back, spare most page faults: the gradient of a small ViT takes about 0.6 of the time.
TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 64 * 2**30,
    "glibc.malloc.top_pad": 256 * 2**20,
}
DIRECTORY = Path("~/.cache/vit_jax/compilations")
UNUSED_SECONDS = 30 * 24 * 3600  # entries that nobody has read for so long are deleted


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


def keep_compilations() -> None:
    """Has JAX keep compiled programs below DIRECTORY.

    Call it before JAX is imported. JAX_COMPILATION_CACHE_DIR names another directory;
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. A directory that cannot be made or
    written to is done without.
    """
    if "jax" in sys.modules or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    directory = DIRECTORY.expanduser() / _processor()
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        _delete_unused(directory)
        if os.access(directory, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
            # The many small programs of a start take as long together as a large one.
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _processor() -> str:
    """Tells apart processors of different abilities that share a home: programs are for one."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def _delete_unused(directory: Path) -> None:
    oldest = time.time() - UNUSED_SECONDS
    for path in directory.glob("*-cache"):
        about = path.stat()
        if max(about.st_atime, about.st_mtime) < oldest:
            path.unlink(missing_ok=True)


def import_quickly(name: str) -> ModuleType:
    """Imports a module without collecting garbage meanwhile: a tenth of a start.

    Modules stay; later collections need not look through them either.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()

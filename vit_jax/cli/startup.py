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

from vit_jax.files import expand

# XLA on CPUs allocates its scratch memory again at every step. Huge pages that are kept, not
# returned, avoid most page faults: the gradient of a small ViT takes about 0.6 of the time.
TUNABLES = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 64 * 2**30,
    "glibc.malloc.top_pad": 256 * 2**20,
}
DIRECTORY = Path("~/.cache/vit_jax/compilations")
UNUSED_SECONDS = 30 * 24 * 3600  # entries that were not read for this long are deleted


def restart_with_huge_pages() -> None:
    """Restarts this process, under the same id, with TUNABLES in its environment.

    Does nothing on other systems than Linux, or if GLIBC_TUNABLES is set.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    settings = ":".join(f"{name}={value}" for name, value in TUNABLES.items())
    environment = dict(os.environ, GLIBC_TUNABLES=settings)
    # The same arguments: only `-m` puts the working directory on the module path.
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def keep_compilations() -> None:
    """Makes JAX keep compiled programs below DIRECTORY.

    Call it before anything is compiled. JAX_COMPILATION_CACHE_DIR names another directory;
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. Without a directory that can be
    written to, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0"):
        return
    directory = expand(DIRECTORY) / _processor()
    if not directory.is_absolute():  # no home directory
        return
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        _delete_unused(directory)
        if os.access(directory, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
            # The many small programs of a start take as long as one large program.
            least = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            if "jax" in sys.modules:  # which has read the variables already
                import jax

                jax.config.update("jax_compilation_cache_dir", str(directory))
                jax.config.update("jax_persistent_cache_min_compile_time_secs", float(least))


def _processor() -> str:
    """A hash of the processor's features: compiled programs run only on the same kind."""
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
    """Imports a module with the garbage collector off, which saves a tenth of the start.

    Later collections skip the imported objects, which live until the end.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()

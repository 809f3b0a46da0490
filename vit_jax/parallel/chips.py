"""Which accelerators this machine has, told by its device files; without JAX."""

import glob
import importlib.util
import os


def has_tpus() -> bool:
    """Whether there are TPU chips here and the library that drives them."""
    # The newer TPUs are vfio devices, which passed-through GPUs are too.
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and _has_libtpu()


def ignore_absent_tpus() -> None:
    """Keeps JAX from looking for TPUs where their compiler is installed but no accelerator is.

    It would find none, with several lines of warnings; call before JAX is imported.
    """
    gpus = glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/kfd")
    if "JAX_PLATFORMS" not in os.environ and _has_libtpu() and not (gpus or has_tpus()):
        os.environ["JAX_PLATFORMS"] = "cpu"


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None

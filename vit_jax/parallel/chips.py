"""Detects the accelerators of this machine from its device files, without JAX."""

import glob
import importlib.util
import os


def has_tpus() -> bool:
    """Whether this machine has TPU chips and the library that drives them."""
    # Newer TPUs are vfio devices, but so are passed-through GPUs.
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and _has_libtpu()


def ignore_absent_tpus() -> None:
    """Keeps JAX from searching for TPUs if only their compiler is installed.

    JAX would find none and print several lines of warnings. Call before JAX is imported.
    """
    gpus = glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/kfd")
    if "JAX_PLATFORMS" not in os.environ and _has_libtpu() and not (gpus or has_tpus()):
        os.environ["JAX_PLATFORMS"] = "cpu"


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None

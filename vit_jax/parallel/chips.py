"""Which accelerators this machine has, and why JAX cannot use one that was asked for."""

import glob
import importlib.util
import os

from vit_jax.errors import nearest
from vit_jax.text import reason

# Platform -> what its devices are called, their device files, JAX's plugin for them, our extra.
_KINDS = {
    "cuda": (
        "NVIDIA GPU",
        ("/dev/nvidia[0-9]*",),
        ("jax_cuda12_plugin", "jax_cuda13_plugin"),
        "cuda",
    ),
    "rocm": ("AMD GPU", ("/dev/kfd",), ("jax_rocm60_plugin", "jax_rocm7_plugin"), ""),
    "tpu": ("TPU", ("/dev/accel*", "/dev/vfio/[0-9]*"), ("libtpu",), "tpu"),
}


def has_tpus() -> bool:
    """Whether this machine has TPU chips and the library that drives them."""
    # Newer TPUs are vfio devices, but so are passed-through GPUs.
    return _has_device("tpu") and _has_plugin("tpu")


def has_accelerators() -> bool:
    """Whether this machine has GPUs or TPUs, and the library that drives them."""
    return any(_has_device(kind) and _has_plugin(kind) for kind in _KINDS)


def without_plugin() -> list[tuple[str, str]]:
    """This machine's accelerators that JAX has no plugin for: name, command that installs it."""
    return [
        (title, _install(kind))
        for kind, (title, *_) in _KINDS.items()
        if _has_device(kind) and not _has_plugin(kind)
    ]


def ignore_absent_tpus() -> None:
    """Keeps JAX from searching for TPUs if only their compiler is installed.

    JAX would find none and print several lines of warnings. Call before JAX is imported.
    """
    gpus = _has_device("cuda") or _has_device("rocm")
    if "JAX_PLATFORMS" not in os.environ and _has_plugin("tpu") and not (gpus or has_tpus()):
        os.environ["JAX_PLATFORMS"] = "cpu"


def device_problem() -> str:
    """Why JAX does not start, in one line with the remedy; "" if it does."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX's own assertion, without a message
        return _explain(os.environ.get("JAX_PLATFORMS", ""), reason(error) if str(error) else "")
    return ""


def _explain(platforms: str, why: str) -> str:
    """The line for a value of JAX_PLATFORMS that JAX refuses with the error `why`."""
    if not platforms:
        return f"JAX finds no devices: {why}"
    asked = platforms.split(",")
    known = (*_KINDS, "gpu", "cpu")
    unknown = [name for name in asked if name not in known]
    found = ", ".join(
        ["cpu", *(kind for kind in _KINDS if _has_device(kind) and _has_plugin(kind))]
    )
    if unknown:
        hint = nearest(unknown[0], known) or f"; known: {', '.join(known)}"
        return f"JAX_PLATFORMS={platforms}: unknown {unknown[0]!r}{hint}; JAX finds {found} here"
    kinds = ["cuda" if name == "gpu" else name for name in asked if name != "cpu"]
    lacking = "; ".join(filter(None, map(_lacking, kinds))) or why
    fallback = " (cuda,cpu: where there is no GPU)" if "cuda" in asked else ""
    return (
        f"JAX_PLATFORMS={platforms}: JAX finds only {found} here; {lacking}; "
        f"unset it, or JAX_PLATFORMS=cpu computes on the CPU{fallback}"
    )


def _lacking(kind: str) -> str:
    """What this machine lacks of a platform."""
    title = _KINDS[kind][0]
    parts = [] if _has_device(kind) else [f"there is no {title}"]
    if not _has_plugin(kind):
        parts.append(f"{title}s need {_install(kind)}")
    return ", and ".join(parts)


def _install(kind: str) -> str:
    """The command that installs JAX's plugin for a platform."""
    _, _, plugins, extra = _KINDS[kind]
    return f"pip install 'vit_jax[{extra}]'" if extra else f"pip install {plugins[0]}"


def _has_device(name: str) -> bool:
    return any(glob.glob(pattern) for pattern in _KINDS[name][1])


def _has_plugin(name: str) -> bool:
    return any(importlib.util.find_spec(plugin) for plugin in _KINDS[name][2])

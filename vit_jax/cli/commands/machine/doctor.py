"""Tell what this machine has for vit_jax, what is missing, and the command that brings it.

  vit_jax doctor
  vit_jax doctor --json

Versions, devices, memory, optional libraries, caches. Exit status 0: a run on the CPU would work;
1: something that every run needs is missing.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax import __version__
from vit_jax.cli.arguments import add_json_argument
from vit_jax.cli.startup import DIRECTORY
from vit_jax.files import expand
from vit_jax.text import first_line, printable

PYTHON = (3, 11)
# Distributions that every run needs; of several, one is enough.
NEEDED = (
    ("jax",),
    ("jaxlib",),
    ("flax",),
    ("optax",),
    ("orbax-checkpoint",),
    ("ml-collections",),
    ("numpy",),
    ("pillow",),
    ("safetensors",),
    ("scikit-learn",),
    ("tensorboardX",),
    ("tensorflow-cpu", "tensorflow"),
    ("tensorflow-datasets",),
)
# Extra -> its modules, and what they are for.
EXTRAS = {
    "hub": (("huggingface_hub", "fsspec", "gcsfs"), "weights of the Hugging Face hub and gs://"),
    "remote": (("fsspec", "aiohttp", "gcsfs", "s3fs"), "shards at https://, gs:// and s3://"),
    "datasets": (("pyarrow", "datasets"), "sources parquet: and hf:"),
    "heic": (("pillow_heif",), "HEIC photographs"),
    "jxl": (("pillow_jxl",), "JPEG XL images"),
    "figures": (("matplotlib",), "plots"),
    "onnx": (("jax2onnx", "onnx", "onnxruntime"), "export to ONNX"),
    "trackers": (("mlflow", "wandb"), "runs in MLflow and Weights & Biases"),
    "plan": (("libtpu",), "vit_jax plan for TPUs on a machine without one"),
}
CUDA_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
LEAST_DISK = 2**30  # bytes
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      name: its name.
      state: "ok", "missing" (optional), "warning", or "error" (no run works without it).
      about: what was found, or what it is for.
      command: command that brings it; "" if nothing is to be done.
    """

    name: str
    state: str
    about: str
    command: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the findings; returns the exit status."""
    versions, findings = _versions()
    devices, found = _devices()
    findings += [*found, *_accelerators(versions), *_extras(), *_machine()]
    works = not any(one.state == "error" for one in findings)
    memory = _memory()
    if args.json:
        document = dict(
            ok=works,
            versions=versions,
            devices=devices,
            memory=memory,
            cores=os.cpu_count(),
            findings=[dataclasses.asdict(one) for one in findings],
        )
        print(json.dumps(document, indent=2))
        return 0 if works else 1
    rows = [("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]
    rows += [("device", f"{one['count']} {one['kind']} ({one['platform']})") for one in devices]
    gib = {name: f"{size / 2**30:.1f} GiB" for name, size in memory.items()}
    rows.append(("memory", f"{gib['available']} of {gib['total']} free, {os.cpu_count()} cores"))
    for one in findings:
        text = f"{one.name}: {one.about}"
        rows.append((one.state, f"{text}: {one.command}" if one.command else text))
    verdict = "a run on the CPU would work" if works else "no run would work; see error"
    for state, text in [*rows, ("" if works else "error", verdict)]:
        print(f"{state:9} {printable(text)}".strip())
    return 0 if works else 1


def _version(*names: str) -> str:
    """The version of the first of several distributions that is installed; "" if none is."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _versions() -> tuple[dict[str, str], list[Finding]]:
    versions = {"vit_jax": __version__, "Python": platform.python_version()}
    findings = []
    if sys.version_info < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        findings.append(Finding("Python", "error", f"vit_jax needs {wanted} or newer"))
    for names in NEEDED:
        if version := _version(*names):
            versions[names[-1]] = version
        else:
            command = f"pip install {names[0]}"
            findings.append(Finding(names[-1], "error", "is not installed", command))
    return versions, findings


def _devices() -> tuple[list[dict[str, Any]], list[Finding]]:
    """JAX's devices by kind, and the reason if there are none."""
    try:
        import jax

        from vit_jax.parallel.chips import device_problem
    except Exception as error:  # of any kind, as where JAX and jaxlib do not fit
        return [], [Finding("jax", "error", first_line(error), "pip install -U jax jaxlib")]
    if problem := device_problem():
        return [], [Finding("devices", "error", problem)]
    kinds: dict[tuple[str, str], int] = {}
    for device in jax.devices():
        key = (device.platform, device.device_kind)
        kinds[key] = kinds.get(key, 0) + 1
    try:
        total = float(jax.numpy.ones(8).sum())
    except Exception as error:  # of a driver, for example
        return [], [Finding("devices", "error", f"cannot compute: {first_line(error)}")]
    state = "ok" if total == 8 else "error"
    found = [dict(platform=p, kind=kind, count=count) for (p, kind), count in kinds.items()]
    return found, [Finding("computation", state, "JAX computes on its first device")]


def _accelerators(versions: dict[str, str]) -> Iterator[Finding]:
    """Accelerators without their plugin, and plugins of another version than JAX."""
    from vit_jax.parallel.chips import without_plugin

    for title, command in without_plugin():
        yield Finding(title, "warning", "is in this machine, JAX's plugin for it is not", command)
    for name in CUDA_PLUGINS:
        version, wanted = _version(name), versions.get("jaxlib", "")
        if version and version != wanted:
            extra = name.removeprefix("jax-").removesuffix("-plugin")
            command = f"pip install -U 'jax[{extra}]=={versions.get('jax', '')}'"
            yield Finding(name, "warning", f"is {version}, jaxlib is {wanted}", command)


def _extras() -> Iterator[Finding]:
    for extra, (modules, purpose) in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            about = f"{purpose} ({', '.join(absent)} not installed)"
            yield Finding(extra, "missing", about, f"pip install 'vit_jax[{extra}]'")
        else:
            yield Finding(extra, "ok", purpose)


def _machine() -> Iterator[Finding]:
    """Disk space of the cache, huge pages, and what reaches the network."""
    cache = expand(DIRECTORY)
    there = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    about = f"{free / 2**30:.1f} GiB free for compiled programs in {cache}"
    if free < LEAST_DISK:
        yield Finding("cache", "warning", about, "JAX_COMPILATION_CACHE_DIR=/elsewhere vit_jax ...")
    else:
        yield Finding("cache", "ok", about)
    if HUGE_PAGES.exists():
        chosen = HUGE_PAGES.read_text().partition("[")[2].partition("]")[0]
        if chosen == "never":
            about = "are switched off; CPU runs are slower without them"
            command = f"echo madvise | sudo tee {HUGE_PAGES}"
            yield Finding("huge pages", "warning", about, command)
        else:
            yield Finding("huge pages", "ok", chosen)
    names = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
    yield Finding("proxy", "ok", f"{', '.join(names)} set" if names else "none set")
    if _has_token():
        yield Finding("hub token", "ok", "is there")
    else:
        about = "private and gated weights of the Hugging Face hub need one"
        yield Finding("hub token", "missing", about, "hf auth login")


def _has_token() -> bool:
    """Whether a token of the Hugging Face hub is in the environment or where `hf` keeps it."""
    if any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")):
        return True
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return expand(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").is_file()


def _memory() -> dict[str, int]:
    """Bytes of this machine's memory: all, and those that nothing uses."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    about = Path("/proc/meminfo")
    for line in about.read_text().splitlines() if about.exists() else []:
        if line.startswith("MemAvailable:"):
            free = 1024 * int(line.split()[1])
    return dict(total=total, available=free)

"""Compiled plans of several layouts: each in a process of its own, and kept on disk.

A process of its own gives its memory back, and a compiler that aborts ends nothing else. What was
compiled is found again by a fingerprint of everything that it depends on, so that a search that
was interrupted goes on where it stopped.
"""

import copy
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import vit_jax
from vit_jax.errors import InputError
from vit_jax.plan.layouts.worker import CompileTask
from vit_jax.train.run import Dataset

CACHE = Path("~/.cache/vit_jax/plans")
WORKER = "vit_jax.plan.layouts.worker"
VERSIONS = ("jax", "jaxlib", "flax", "optax", "libtpu")
FLAGS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")  # variables that change what is compiled


@dataclasses.dataclass(frozen=True)
class Compiler:
    """Compiles variants of a config.

    Attributes:
      config: config of the run.
      dataset: facts about its training data.
      topology: topology of one slice; "": the devices present.
      slices: number of slices.
      slice_bandwidth: bytes/s of one chip to other slices; None: as published.
      run: function that runs a task and returns its standard output; a process by default.
    """

    config: ConfigDict
    dataset: Dataset
    topology: str = ""
    slices: int = 1
    slice_bandwidth: float | None = None
    run: Callable[[CompileTask], str] = dataclasses.field(default_factory=lambda: run_worker)

    def plan(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """The plan of a variant, and whether it was found on disk.

        Args:
          options: options to change, by name.

        Raises:
          InputError: the compiler failed; its last line says why.
        """
        config = copy.deepcopy(self.config)
        config.update_from_flattened_dict(dict(options))
        text = config.to_json_best_effort()
        path = CACHE.expanduser() / f"{self._fingerprint(text)}.json"
        try:
            return json.loads(path.read_text()), True
        except (OSError, ValueError):
            pass  # not there, or cut short
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.json"
            file.write_text(text)
            found = json.loads(self.run(self._task(str(file))))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(found))
        part.replace(path)
        return found, False

    def _task(self, config: str) -> CompileTask:
        fields = dataclasses.asdict(self.dataset)
        return CompileTask(config, self.topology, self.slices, self.slice_bandwidth, fields)

    def _fingerprint(self, config: str) -> str:
        task = dataclasses.asdict(self._task(config))
        flags = {name: os.environ.get(name, "") for name in FLAGS}
        parts = [task, flags, _versions(), _sources()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def run_worker(task: CompileTask) -> str:
    """Runs a task in a process of its own and returns its standard output.

    Raises:
      InputError: it failed.
    """
    environment = dict(os.environ)
    if task.topology:
        environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run(
        [sys.executable, "-m", WORKER],
        input=json.dumps(dataclasses.asdict(task)),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise InputError(f"the compiler failed: {lines[-1][:300]}")
    return done.stdout


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of what takes part in compiling; those that are absent are left out."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def _sources() -> str:
    """A digest of the package's own source."""
    digest = hashlib.sha256()
    root = Path(vit_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

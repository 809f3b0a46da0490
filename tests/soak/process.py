"""A training process under disturbance: how it is started, stopped, and its files damaged."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Devices of the host and options: layouts that a run may move between.
LAYOUTS = {
    "1 device": (1, ()),
    "2 devices": (2, ("data=2",)),
    "2 devices, pmap": (2, ("engine=pmap",)),
    "8 devices, data 2 fsdp 4": (8, ("data=2", "fsdp=4")),
    "8 devices, tensor 2 fsdp 4": (8, ("data=1", "fsdp=4", "tensor=2")),
    "8 devices, pmap": (8, ("engine=pmap",)),
}
PATIENCE = 3600  # seconds after which a process has failed, also on a busy machine
TIMINGS = ("train/images_per_second", "train/data_wait", "train/mfu")


class Training:
    """One start of a run.

    Attributes:
      status: its exit status, negative for a signal, once it has ended.
    """

    def __init__(self, workdir: Path, layout: str, steps: int, cache: Path):
        devices, options = LAYOUTS[layout]
        flags = f"--xla_force_host_platform_device_count={devices}"
        self.workdir, self._output = workdir, workdir.with_suffix(".log")
        self._seen = self._output.stat().st_size if self._output.exists() else 0
        environment = dict(
            os.environ,
            JAX_PLATFORMS="cpu",
            XLA_FLAGS=f"{flags} {os.environ.get('QUICK_XLA_FLAGS', '')}",
            JAX_ENABLE_COMPILATION_CACHE="true",
            JAX_COMPILATION_CACHE_DIR=str(cache),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        )
        command = [sys.executable, "-m", "vit_jax", "train", f"--workdir={workdir}"]
        command += [f"--config=tests/soak/config.py:{steps}"]
        command += [f"--config.parallel.{option}" for option in options]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output
            )
        self._began = time.monotonic()

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def first_step(self) -> int | None:
        """The step it went on from; None if it has not come so far."""
        found = re.search("going on from step ([0-9]+)$|from the start$", self.output(), re.M)
        return int(found[1] or 0) if found else None

    def has_trained(self, steps: int) -> bool:
        """Whether it has logged so many steps of its own."""
        first = self.first_step()
        return first is not None and last_step(self.workdir) >= first + steps

    def saving(self) -> bool:
        """Whether a checkpoint is half written."""
        folder = self.workdir / "checkpoints"
        return folder.is_dir() and any(folder.glob("*.orbax-checkpoint-tmp"))

    def output(self) -> str:
        """What it has printed."""
        return self._output.read_bytes()[self._seen :].decode(errors="replace")

    def wait(self, condition=None, pause: float = 0.03) -> bool:
        """Waits until the condition holds (True) or the process ends (False)."""
        while self.status is None:
            if condition and condition():
                return True
            if time.monotonic() - self._began > PATIENCE:
                self.kill()
                raise TimeoutError(f"nothing in {PATIENCE} s; see {self._output}")
            time.sleep(pause)
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal and waits for the end."""
        if self.status is None:
            self._process.send_signal(number)
        self._process.wait(timeout=PATIENCE)


def lines(workdir: Path) -> list[dict]:
    """Whole lines of metrics.jsonl without what depends on speed."""
    path, result = workdir / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        result.append({name: value for name, value in values.items() if name not in TIMINGS})
    return result


def last_step(workdir: Path) -> int:
    """The last step in metrics.jsonl, 0 without one."""
    path = workdir / "metrics.jsonl"
    end = path.read_bytes()[-4096:].decode() if path.exists() else ""
    return max((int(step) for step in re.findall(r'"step": (\d+),', end)), default=0)


def checkpoints(workdir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folder = workdir / "checkpoints"
    complete = [path for path in folder.glob("*") if path.name.isdigit()] if folder.exists() else []
    return sorted(complete, key=lambda path: int(path.name))


def damage(checkpoint: Path, rng: random.Random) -> str:
    """Damages a complete checkpoint in one of four ways; says how."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    large = [path for path in files if path.stat().st_size > 4096] or files
    how = rng.choice(["truncate", "delete", "flip", "empty"])
    if how == "empty":
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
        return "emptied"
    path = rng.choice(files if how == "delete" else large)
    name = path.relative_to(checkpoint)
    if how == "delete":
        path.unlink()
        return f"{name} deleted"
    content = bytearray(path.read_bytes())
    if how == "truncate":
        path.write_bytes(content[: rng.randrange(len(content))])
        return f"{name} truncated"
    for _ in range(8):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"8 bits flipped in {name}"

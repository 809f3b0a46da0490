"""Copies of the state beside the chips: each process keeps its part, in memory or on its disk.

They are written more often than checkpoints, without any shared disk. When a slice of several
is lost and all processes start again, the new slice receives its part from the others, which
still have theirs ("emergency checkpoints"). A copy is used only if it is newer than the newest
checkpoint, complete among all processes, and of the same layout; otherwise the checkpoint is.
"""

import contextlib
import dataclasses
import json
import logging
import secrets
import shutil
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from vit_jax.checkpoint.interval import SaveInterval
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.parallel.agree import anywhere, from_first, from_process
from vit_jax.parallel.spread import Part, own_parts, parts_of, place, spread
from vit_jax.text import first_line, reason
from vit_jax.trees import named_leaves

log = logging.getLogger(__name__)

KEEP = 2  # copies: the newest may be one that not all processes have completed
MINUTES = 1.0  # between copies, unless their cost or `local_every` says otherwise
MARK = "local.json"  # in the workdir: which copies are this run's
ABOUT = "about"  # the member of a file that is JSON

Restored = tuple[int, dict[str, Any], dict[str, Any]]  # step, arrays, metadata


class LocalCopies:
    """The copies of one run that this process keeps.

    With `config.checkpoint.local` = "" there are none, and every method does nothing.
    """

    def __init__(self, workdir: str | Path, config: ConfigDict, every: int | None):
        """Finds the copies of an earlier start.

        Args:
          workdir: workdir of the run.
          config: section `config.checkpoint`.
          every: interval `config.checkpoint.local_every` in steps; None: by the clock.

        Raises:
          InputError: the directory cannot be used.
        """
        self._workdir = Path(workdir).resolve()  # however it is spelt
        self._every = every
        self._root = expand(config.local).resolve() if config.local else None
        self._restored = False
        self._run = ""
        self._interval: SaveInterval | None = None
        self._writer: threading.Thread | None = None
        if self._root is None:
            return
        self._run = from_first(self._read_mark)
        name = f"{self._workdir.name}-{sha256(str(self._workdir).encode()).hexdigest()[:12]}"
        self._folder = self._root / name / f"process{jax.process_index()}"
        if problem := anywhere(self._obstacle()):
            raise InputError(f"config.checkpoint.local: {problem}")

    def started(self, step: int) -> Self:
        """Itself, with the clock started at the step from which the run goes on.

        A run that does not go on from its copies leaves them behind, and all that other processes
        and directories may still have: what it keeps from now on has another mark.
        """
        if not self._restored:
            self._run = ""
            if jax.process_index() == 0:
                with contextlib.suppress(OSError):
                    (self._workdir / MARK).unlink(missing_ok=True)
        if self._root is not None:
            for later, path in self._files().items():
                if later > step or not self._restored:
                    path.unlink(missing_ok=True)
            options = ConfigDict(dict(keep_every=0, minutes=MINUTES))
            self._interval = SaveInterval(options, self._every, step)
        return self

    def due(self, step: int) -> bool:
        """Whether to keep a copy after `step`; the same on all processes."""
        return self._interval is not None and self._interval.due(step)

    def save(self, step: int, items: dict[str, Any], meta: dict[str, Any]) -> None:
        """Copies this process's part of the state, then writes it in the background.

        A copy that cannot be written is a warning: the run has its checkpoints.

        Args:
          step: number of steps that led to the state.
          items: name -> pytree of arrays, which may be donated right afterwards.
          meta: metadata, as for a checkpoint.
        """
        if self._interval is None:
            return
        began = time.monotonic()
        self.close()
        if not self._run:
            self._run = from_first(self._write_mark)
        values = {
            _key(path, leaf, part): value.view(_bits(value))
            for path, leaf in named_leaves(items).items()
            for part, value in own_parts(leaf).items()
        }
        about = json.dumps(dict(run=self._run, step=step, meta=meta)).encode()
        values[ABOUT] = np.frombuffer(about, np.uint8)
        self._writer = threading.Thread(target=self._write, args=(step, values))
        self._writer.start()
        self._interval.saved(step, time.monotonic() - began)

    def restore(self, items: dict[str, Any], newest: int | None) -> Restored | None:
        """The newest copy that all processes together have, in the layout of `items`.

        Args:
          items: name -> pytree of ShapeDtypeStructs with shardings.
          newest: step of the newest checkpoint, than which a copy must be newer; None: any is.

        Returns:
          Its step, its arrays and its metadata; None if there is no such copy.
        """
        if not self._run:
            return None
        own = {step: path for step, path in self._files().items() if step > (newest or 0)}
        listed = np.full(KEEP + 1, -1, np.int32)
        steps = sorted(own, reverse=True)[: len(listed)]
        listed[: len(steps)] = steps
        everywhere = np.unique(multihost_utils.process_allgather(listed))
        for step in everywhere[everywhere >= 0][::-1]:
            if found := self._restore_step(int(step), items, own.get(int(step))):
                return found
        return None

    def _restore_step(self, step: int, items: dict[str, Any], file: Path | None) -> Restored | None:
        named = named_leaves(items)
        leaves, slots = list(named.values()), _slots(named)
        me, count = jax.process_index(), jax.process_count()
        keys = [slot.key for slot in slots if me in slot.processes]
        own, meta = _read(file, dict(run=self._run, step=step), keys)
        held = np.array([slot.key in own for slot in slots], np.uint8)
        table = multihost_utils.process_allgather(held).reshape(count, len(slots))
        if not table.any(axis=0).all():
            log.info("the local copies of step %d are incomplete, or of another layout", step)
            return None
        values: list[dict[jax.Device, np.ndarray]] = [{} for _ in leaves]
        lost = sum(not table[p, i] for i, slot in enumerate(slots) for p in slot.processes)
        if lost and not all(isinstance(leaf.sharding, NamedSharding) for leaf in leaves):
            return None
        for i, slot in enumerate(slots):
            devices = [device for device in slot.devices if device.process_index == me]
            if lost:
                devices = devices[:1] if int(np.argmax(table[:, i])) == me else []
            if devices:
                value = own[slot.key].view(leaves[slot.leaf].dtype)
                values[slot.leaf] |= dict.fromkeys(devices, value)
        arrays = (spread if lost else place)(leaves, values)
        helpers = table.any(axis=1)
        log.info(
            "step %d is restored from the local copies of %d of %d processes in %s",
            *(step, np.count_nonzero(helpers), count, self._root),
        )
        self._restored = True
        tree = jax.tree.unflatten(jax.tree.structure(items), arrays)
        return step, tree, from_process(meta, int(np.argmax(helpers)))

    def delete(self) -> None:
        """Deletes this process's copies: after a checkpoint at the end they are of no use."""
        self.close()
        if self._root is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # other processes of this host have theirs there
                self._folder.parent.rmdir()

    def close(self) -> None:
        """Completes the copy under way."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _read_mark(self) -> str:
        try:
            return str(json.loads((self._workdir / MARK).read_bytes())["run"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""  # no copies so far: what is there is of an earlier workdir of this name

    def _write_mark(self) -> str:
        run = secrets.token_hex(8)
        try:
            (self._workdir / MARK).write_text(json.dumps(dict(run=run)) + "\n")
        except OSError as error:
            log.warning("local copies will not be found again: %s: %s", MARK, reason(error))
        return run

    def _obstacle(self) -> str | None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._folder.glob("*.part"):
                part.unlink()
        except OSError as error:
            return f"cannot use {self._folder}: {reason(error)}"
        return None

    def _write(self, step: int, values: dict[str, np.ndarray]) -> None:
        part = self._folder / f"{step}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, **values)
            part.replace(self._folder / f"{step}.npz")
            for old in sorted(self._files(), reverse=True)[KEEP:]:
                (self._folder / f"{old}.npz").unlink()
        except OSError as error:
            log.warning("the local copy of step %d was not written: %s", step, reason(error))
            part.unlink(missing_ok=True)

    def _files(self) -> dict[int, Path]:
        found = self._folder.glob("*.npz")
        return {int(path.stem): path for path in found if path.stem.isdecimal()}


@dataclasses.dataclass(frozen=True)
class Slot:
    """One part of one array, the same on several devices.

    Attributes:
      leaf: number of the array.
      key: name of the part in files.
      devices: devices of all processes that hold it.
    """

    leaf: int
    key: str
    devices: list[jax.Device]

    @property
    def processes(self) -> set[int]:
        return {device.process_index for device in self.devices}


def _slots(named: dict[str, Any]) -> list[Slot]:
    return [
        Slot(number, _key(path, leaf, part), devices)
        for number, (path, leaf) in enumerate(named.items())
        for part, devices in parts_of(leaf).items()
    ]


def _key(path: str, leaf: Any, part: Part) -> str:
    """Name of a part: of arrays of another shape, type or layout it is another."""
    cut = ",".join(f"{start}:{stop}" for start, stop in part)
    return f"{path} {np.dtype(leaf.dtype).name}{list(leaf.shape)} {cut}"


def _bits(value: np.ndarray) -> str:
    return f"u{value.dtype.itemsize}"


def _read(
    file: Path | None, wanted: dict[str, Any], keys: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The parts and the metadata in a file; nothing if it is damaged or not the wanted one."""
    if file is None:
        return {}, {}
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(stored[ABOUT].tobytes())
            if {name: about[name] for name in wanted} != wanted:
                return {}, {}
            # zip files have a checksum of each part.
            return {key: stored[key] for key in keys if key in stored.files}, about["meta"]
    except Exception as error:  # any that damaged bytes cause; the other processes wait
        log.warning("the local copy %s is damaged: %s", file, first_line(error))
        return {}, {}

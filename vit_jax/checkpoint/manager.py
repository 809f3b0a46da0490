"""Checkpoints of a run: asynchronous, atomic, verified, restorable onto any layout (Orbax).

A checkpoint is a directory `checkpoints/<step>/` with the items

* `params`: the parameters; `ema`: their moving averages, if the run keeps them;
* `train`: everything else of the train state (step counters, optimizer);
* `meta`: JSON with the model, preprocessing, labels and data, so that the checkpoint can be
  used alone; the fingerprints of all arrays; the metrics of this state, if it was evaluated.

Orbax's AsyncCheckpointer writes them. This module replaces its CheckpointManager in order to
survive failing disks: old checkpoints are deleted only when a new one is complete, damaged
checkpoints do not count, and a failed save affects no other checkpoint. All processes reach
the same decisions. Call every method from the main thread, on all processes.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vit_jax.checkpoint import aftermath, damage, stored
from vit_jax.checkpoint.damage import DamagedCheckpoint
from vit_jax.checkpoint.keep import expendable, score
from vit_jax.checkpoint.stored import read_meta
from vit_jax.errors import InputError, NotSavedError
from vit_jax.parallel.agree import attempt, from_first
from vit_jax.text import some

log = logging.getLogger(__name__)

# Of an array that several devices hold, each writes a part, but none smaller than this. Cutting
# hundreds of small arrays into parts holds the training loop for seconds, and saves no time.
SMALLEST_PART = 2**20  # bytes


class Checkpoints:
    """The checkpoints of one workdir.

    Attributes:
      directory: `workdir`/checkpoints.
      failures: attempts to save that failed so far.
    """

    def __init__(self, workdir: str | Path, config: ConfigDict):
        """Opens or creates `workdir`/checkpoints and deletes unfinished saves.

        Args:
          workdir: workdir of the run.
          config: section `config.checkpoint`.

        Raises:
          InputError: the directory cannot be created or read.
        """
        self.directory = Path(workdir).absolute() / "checkpoints"
        self.failures = 0
        self._config = config
        self._failed_in_a_row = 0
        self._claimed = False  # whether config.json has been seen
        self._writing: int | None = None  # the step of an unfinished save
        self._scores: dict[int, float] = {}  # of config.best, read from checkpoints
        if problem := from_first(self._open_directory):
            raise InputError(problem)
        self._newest = max(self._steps(), default=None)
        self._checkpointer: Any = None  # made by the first save

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._newest

    def restore_newest(
        self, items: dict[str, Any], needed: Sequence[str] = ()
    ) -> tuple[int, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint, then moves newer, damaged ones aside.

        Args:
          items: name -> pytree of ShapeDtypeStructs with shardings.
          needed: keys of the metadata without which a checkpoint counts as damaged.

        Returns:
          Its step and its arrays; None if there are no checkpoints.

        Raises:
          InputError: all checkpoints are damaged (nothing is moved or deleted), or the arrays
            of the newest undamaged one differ from `items`.
        """
        bad: dict[int, str] = {}
        for step in reversed(self._steps()):
            try:
                restored = self.restore(step, items, needed)
            except DamagedCheckpoint as error:
                log.error("%s", error)
                bad[step] = str(error)  # without the traceback, which holds the arrays
                continue
            self._set_aside(bad)
            self._newest = step
            return step, restored
        if bad:
            raise InputError(
                f"{bad[max(bad)]}; no other in {self.directory} is good; nothing was deleted: "
                "restore one from a backup, or start again with another --workdir"
            )
        return None

    def restore(
        self, step: int, items: dict[str, Any], needed: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Reads and verifies the arrays of a checkpoint, in the layout of `items`.

        Args:
          step: step of the checkpoint.
          items: name -> pytree of ShapeDtypeStructs with shardings.
          needed: keys of the metadata that have to be there.

        Raises:
          DamagedCheckpoint: the checkpoint has changed; names the file or the arrays.
          InputError: its arrays differ from `items`; names all differences.
        """
        checkpoint = self.directory / str(step)
        if problem := from_first(lambda: damage.find_damage(checkpoint)):
            raise _damaged(checkpoint, problem)

        def arrays():
            return {item: stored.stored_arrays(checkpoint, item) for item in items}

        found = _together(checkpoint, arrays)
        stored.check_shapes(checkpoint, found, items)

        def read():
            read = {
                item: stored.read_item(checkpoint, item, found[item], tree)
                for item, tree in items.items()
            }
            return read, read_meta(checkpoint, needed).get("fingerprints")

        restored, recorded = _together(checkpoint, read)
        if recorded is None:
            log.warning("%s was written without fingerprints: not verified", checkpoint)
        elif changed := stored.changed_arrays(restored, recorded):
            raise _damaged(checkpoint, f"{some(changed)} changed since it was written")
        # The metadata of earlier versions do not say it; on several processes it is replicated.
        stored_step = restored.get("train", {}).get("step")
        if stored_step is not None:
            problem = damage.other_step(checkpoint, np.asarray(jax.device_get(stored_step)))
            if problem:
                raise _damaged(checkpoint, problem)
        # The type of the optimizer's moments may have changed.
        return jax.tree.map(
            lambda array, leaf: array if array.dtype == leaf.dtype else array.astype(leaf.dtype),
            restored,
            dict(items),
        )

    def save(
        self,
        step: int,
        items: dict[str, Any],
        meta: dict[str, Any],
        metrics: dict[str, float],
        *,
        wait: bool = False,
    ) -> bool:
        """Starts writing a checkpoint and returns; it becomes visible when it is complete.

        Errors are logged and counted in `failures`; the run can continue. An error in the
        background is noticed by the next call of `save`, `wait` or `close`.

        Args:
          step: number of steps that led to the state.
          items: name -> pytree of arrays, which may be donated right afterwards.
          meta: metadata, without fingerprints and metrics.
          metrics: metrics of this state, {} if it was not evaluated; `config.checkpoint.best`
            names one of them.
          wait: whether to return only when the checkpoint is complete, after up to
            `config.checkpoint.retries` further attempts with growing pauses.

        Returns:
          Whether the save has started; with `wait`, whether it is complete.

        Raises:
          NotSavedError: `config.checkpoint.max_failures` consecutive saves failed.
        """
        for retry in range(1 + (self._config.retries if wait else 0)):
            if retry:
                time.sleep(2.0 ** (retry - 1))
            if self._start(step, items, meta, metrics) and (not wait or self.wait()):
                return True
        return False

    def _start(self, step: int, items: dict, meta: dict, metrics: dict) -> bool:
        self.wait()
        if step == self._newest:
            return True
        problem = from_first(lambda: self._obstacle(step))
        if not problem:
            import orbax.checkpoint as ocp  # a new run starts without: it takes long to import

            if self._checkpointer is None:
                self._checkpointer = self._new_checkpointer(items)
            notes = dict(step=step, metrics=metrics, fingerprints=stored.fingerprints_of(items))
            saves = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
            args = ocp.args.Composite(meta=ocp.args.JsonSave(dict(meta, **notes)), **saves)
            self._writing = step
            problem = attempt(lambda: self._checkpointer.save(self._path(step), args=args))
        if problem:
            self._fail(step, problem)
        return not problem

    def wait(self) -> bool:
        """Waits until the pending save is complete.

        Returns:
          Whether it succeeded; True if no save was pending.

        Raises:
          NotSavedError: see `save`.
        """
        if self._writing is None:
            return True
        if problem := attempt(self._checkpointer.wait_until_finished):
            self._fail(self._writing, problem)
            return False
        self._newest, self._writing = self._writing, None
        self._failed_in_a_row = 0
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):  # a disk that fails now does so for the next save
                if self.failures:  # threads of a failed save may have written after `_fail`
                    damage.clean(self.directory)
                self._delete_old()
        return True

    def close(self) -> None:
        """Completes the pending save and frees resources.

        Raises:
          NotSavedError: see `save`.
        """
        self.wait()
        if self._checkpointer is not None:
            self._checkpointer.close()

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    def _open_directory(self) -> str | None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            damage.clean(self.directory)
        except OSError as error:
            return f"cannot use {self.directory}: {error.strerror}"
        return None

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, listed by process 0.

        Raises:
          InputError: the directory cannot be read.
        """

        def listed():
            try:
                return stored.steps_in(self.directory)
            except OSError as error:
                return f"cannot read {self.directory}: {error.strerror}"

        steps = from_first(listed)
        if isinstance(steps, str):
            raise InputError(steps)
        return steps

    def _new_checkpointer(self, names: Iterable[str]) -> Any:
        import orbax.checkpoint as ocp

        aftermath.silence()

        types = ocp.type_handlers
        arrays = types.create_type_handler_registry(
            (np.ndarray, types.NumpyHandler()),
            (
                jax.Array,
                types.ArrayHandler(min_slice_bytes_for_replica_parallel=SMALLEST_PART),
            ),
        )
        handlers = {
            name: ocp.PyTreeCheckpointHandler(type_handler_registry=arrays) for name in names
        }
        # A new prefix, because a failed save may leave barriers that some processes missed.
        prefix = f"after{self.failures}" if self.failures else None
        return ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(meta=ocp.JsonCheckpointHandler(), **handlers),
            async_options=ocp.AsyncOptions(
                timeout_secs=self._config.timeout,
                # Called on process 0 when all files are there, before the checkpoint appears.
                post_finalization_callback=self._record_files,
            ),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=prefix
            ),
        )

    def _record_files(self) -> None:
        damage.record_files(self.directory / f"{self._writing}{damage.TEMPORARY}")

    def _obstacle(self, step: int) -> str | None:
        """The reason why the disk cannot be written to (missing, full, read-only), or None."""
        probe = self.directory / f"probe{damage.TEMPORARY}"
        config = self.directory.parent / "config.json"
        try:
            if config.exists():
                self._claimed = True
            elif self._claimed:  # Orbax may have made the directories again
                return f"{config} is gone: the workdir was deleted or moved during the run"
            probe.write_bytes(bytes(4096))
            probe.unlink()
            # A damaged checkpoint that could not be moved earlier.
            if self._path(step).exists() and damage.set_aside(self._path(step)) is None:
                return f"{self._path(step)} is in the way"
        except OSError as error:
            return f"{self.directory}: {error.strerror}"
        return None

    def _fail(self, step: int, problem: str) -> None:
        self._writing = None
        self.failures += 1
        self._failed_in_a_row += 1
        log.error("the checkpoint of step %d was not written: %s", step, problem)
        if self._checkpointer is not None:
            with contextlib.suppress(Exception):
                self._checkpointer.close()
            self._checkpointer = None
        aftermath.release_threads()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                damage.clean(self.directory)
        limit = self._config.max_failures
        if limit and self._failed_in_a_row >= limit:
            raise NotSavedError(
                f"{self._failed_in_a_row} attempts in a row to write a checkpoint failed "
                f"(config.checkpoint.max_failures={limit}), the last for step {step}: {problem}"
            )

    def _set_aside(self, steps: Iterable[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                if target := damage.set_aside(self._path(step)):
                    log.warning("step %d's checkpoint is in %s now", step, target)

    def _delete_old(self) -> None:
        steps = stored.steps_in(self.directory)
        for step in expendable(steps, self._config, self._is_sound, self._score):
            damage.delete(self._path(step))

    def sound(self) -> list[int]:
        """The steps of the undamaged checkpoints that were not written during bad steps.

        Those during bad steps (`bad_steps` in the metadata) may be the cause of the bad numbers.
        """
        return [step for step in stored.steps_in(self.directory) if self._is_sound(step)]

    def _is_sound(self, step: int) -> bool:
        if damage.find_damage(self._path(step)) is not None:
            return False
        try:
            return not read_meta(self._path(step)).get("bad_steps")
        except DamagedCheckpoint:
            return False

    def _score(self, step: int) -> float:
        if step not in self._scores:
            try:
                metrics = read_meta(self._path(step)).get("metrics", {})
            except DamagedCheckpoint:
                metrics = {}
            self._scores[step] = score(metrics, self._config.best)
        return self._scores[step]


def _damaged(checkpoint: Path, problem: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{checkpoint} is damaged: {problem}")


def _together(checkpoint: Path, read: Callable[[], Any]) -> Any:
    """Returns the result of `read`, if it succeeds on all processes.

    Raises:
      DamagedCheckpoint: on all processes, if `read` fails on any. Errors for lack of memory
        are not damage and are passed on.
    """
    results = []
    too_little = (MemoryError, jax.errors.JaxRuntimeError)
    if problem := attempt(lambda: results.append(read()), passing=too_little):
        raise _damaged(checkpoint, problem)
    return results[0]

"""A workdir belongs to one config: written at the start, compared at every resume."""

import contextlib
import fcntl
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
from ml_collections import ConfigDict

from vit_jax import schema
from vit_jax.errors import InputError
from vit_jax.files import expand, write_atomic
from vit_jax.options import flatten
from vit_jax.parallel import same
from vit_jax.parallel.agree import from_first
from vit_jax.text import reason, some
from vit_jax.train.config import completed, default, is_free

log = logging.getLogger(__name__)


class StoredConfig(TypedDict):
    """The sections of config.json that are read one by one."""

    init_from: NotRequired[str | None]
    total: NotRequired[dict[str, Any]]
    evals: NotRequired[dict[str, Any]]


class Summary(TypedDict):
    """The keys of summary.json that are read back."""

    metrics: dict[str, float | None]


# Waiting for another process to end; a file server may hold the lock of a dead one that long.
ATTEMPTS, PAUSE = 10, 10.0  # seconds in between


def open_workdir(workdir: str, config: ConfigDict) -> Path:
    """Creates the workdir, or checks that it belongs to this config; see `claim_workdir`.

    Raises:
      InputError: it cannot be created, or holds a run of another config.
    """
    path = _place(workdir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _compare_stored(path, config)
    except OSError as error:
        raise InputError(f"cannot use {path} as workdir: {error.strerror}") from error
    return path


def check_workdir(workdir: str, config: ConfigDict) -> Path:
    """Checks what `open_workdir` checks, and creates nothing.

    Raises:
      InputError: it cannot be created, or holds a run of another config.
    """
    path = _place(workdir)
    try:
        there = next(place for place in (path, *path.parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):  # it has no name
            pass
        _compare_stored(path, config)
    except OSError as error:
        raise InputError(f"cannot use {path} as workdir: {error.strerror}") from error
    return path


def _place(workdir: str) -> Path:
    if "://" in workdir:
        raise InputError(
            f"--workdir={workdir} is no directory; mount the bucket and give the path of the mount"
        )
    return expand(workdir).absolute()


def _compare_stored(path: Path, config: ConfigDict) -> None:
    """Refuses a workdir that holds a run of another config."""
    stored = path / "config.json"
    if stored.exists():
        _compare(path, schema.read(stored, dict), json.loads(_json(config)))


def compare_starts(config: ConfigDict, workdir: str) -> None:
    """Compares config and workdir with those of the other processes.

    Raises:
      InputError: on every process, where one has others.
    """
    options = {f"config.{name}": value for name, value in flatten(json.loads(_json(config)))}
    same.compare({"--workdir": str(expand(workdir).absolute())} | options)


@contextlib.contextmanager
def only_run_in(path: Path) -> Iterator[None]:
    """Keeps other runs out of a workdir as long as this one is under way.

    Raises:
      InputError: another run is under way and did not end within ATTEMPTS, or nothing can be
        written there.
    """
    with contextlib.ExitStack() as stack:

        def lock() -> bool | str:
            try:
                file = stack.enter_context(open(path / "lock", "w"))
            except OSError as error:
                return f"cannot use {path} as workdir: {reason(error)}"
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                log.warning("%s: the file system knows no locks; start one run at a time", path)
            return True

        for _ in range(ATTEMPTS):
            locked = from_first(lock)
            if isinstance(locked, str):
                raise InputError(locked)
            if locked:
                break
            log.info("another process trains in %s; waiting for its end", path)
            time.sleep(PAUSE)
        else:
            raise InputError(
                f"{path}: another process trains there; wait for it or give another --workdir"
            )
        yield


def claim_workdir(path: Path, config: ConfigDict) -> None:
    """Process 0 writes config.json: from now on the workdir belongs to this config.

    Call after all validation, so that a rejected config does not claim the workdir.
    The summary of an earlier end goes, until there is a new one.

    Raises:
      InputError: it cannot be written.
    """
    if jax.process_index() > 0:
        return
    try:
        write_atomic(path / "config.json", _json(config) + "\n")
        (path / "summary.json").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot use {path} as workdir: {error.strerror}") from error


def _json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=str)


def _compare(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    # Options that did not exist when the run began had the effect of their defaults then.
    old = dict(flatten(json.loads(_json(default())))) | dict(flatten(old))
    old, new = completed(old), completed(dict(flatten(new)))
    differing = [
        name
        for name in sorted(old.keys() | new.keys())
        if not _same(name, old.get(name), new.get(name)) and not is_free(name)
    ]
    if differing:
        changes = some([f"{name} ({old.get(name)!r} there)" for name in differing])
        raise InputError(
            f"{path} belongs to a run with another config: {changes}; "
            "choose another --workdir or go back to that config"
        )


def _same(name: str, old: Any, new: Any) -> bool:
    """Whether two values of an option mean the same; JSON has lists in place of tuples."""
    old, new = (list(value) if isinstance(value, tuple) else value for value in (old, new))
    if old == new or not (isinstance(old, str) and isinstance(new, str)):
        return old == new
    if name == "data.source":
        # A source of the same kind may be elsewhere now: the fingerprint in the checkpoint tells.
        # It does not cover the chosen label of a tfds data set.
        (kind, tfds), other = (
            (text.partition(":")[0], re.findall(r"tfds:[^*+]*", text)) for text in (old, new)
        )
        return (kind, tfds) == other
    if name in ("init_from", "distill.teacher"):
        return os.path.realpath(expand(old)) == os.path.realpath(expand(new))
    return False

"""Detection of damaged checkpoints, which are moved aside and never deleted.

Before a checkpoint is renamed to its final name, a list of its files is written into it: their
sizes, and checksums of small files (metadata). Comparing with the list is fast. Large files are
checked after reading, by the fingerprints of their arrays (see vit_jax.checkpoint.fingerprint).
"""

import json
import logging
import re
import shutil
import zlib
from pathlib import Path

from vit_jax import schema
from vit_jax.errors import InputError

log = logging.getLogger(__name__)

FILES = "files.json"
MARKER = "_CHECKPOINT_METADATA"
METADATA = "meta/metadata"
TEMPORARY = ".orbax-checkpoint-tmp"  # suffix that Orbax gives to incomplete checkpoints
ASIDE = "damaged"
SMALL = 2**20  # bytes


class DamagedCheckpoint(InputError):
    """A complete checkpoint with changed or missing contents; names the file or the array."""


def record_files(checkpoint: Path) -> None:
    """Writes the list of files into a checkpoint, just before it becomes complete."""
    files = sorted(path for path in checkpoint.glob("*/**/*") if path.is_file())
    record = {str(path.relative_to(checkpoint)): _measure(path) for path in files}
    (checkpoint / FILES).write_text(json.dumps(record))


def find_damage(checkpoint: Path) -> str | None:
    """Compares a checkpoint with its list of files; returns the first problem, or None.

    A checkpoint of an older version has no list: only the marker file is checked.
    """
    try:
        if not (checkpoint / MARKER).is_file():
            return f"{MARKER} is missing"
        if problem := _other_step(checkpoint):
            return problem
        if not (checkpoint / FILES).exists():
            return None
        for name, recorded in schema.parse((checkpoint / FILES).read_bytes()).items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            size, checksum = _measure(path)
            if size != recorded[0]:
                return f"{name} has {size:,} bytes, not {recorded[0]:,}"
            if checksum != recorded[1]:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        return f"{FILES} is not what was written: {error}"
    return None


def is_step(name: str) -> bool:
    """Whether a name is that of a step's checkpoint: a number without leading zeros."""
    return re.fullmatch("0|[1-9][0-9]*", name) is not None


def _other_step(checkpoint: Path) -> str | None:
    """The problem of a checkpoint that was copied or renamed to another step's name."""
    path = checkpoint / METADATA
    if not (is_step(checkpoint.name) and path.is_file()):
        return None
    try:
        meta = schema.parse(path.read_bytes())
    except ValueError as error:
        return f"{METADATA} is not what was written: {error}"
    step = meta.get("step") if isinstance(meta, dict) else None
    return other_step(checkpoint, step)


def other_step(checkpoint: Path, stored: object) -> str | None:
    """The problem of a checkpoint whose name is not its stored step; None: no step is stored."""
    if stored is None or str(stored) == checkpoint.name:
        return None
    return f"it is a copy of step {stored!s:.40}'s checkpoint under another name"


def _measure(path: Path) -> list[int | None]:
    size = path.stat().st_size
    return [size, zlib.crc32(path.read_bytes()) if size <= SMALL else None]


def set_aside(checkpoint: Path) -> Path | None:
    """Moves a damaged checkpoint to damaged/ beside it; None if it cannot be moved."""
    folder = checkpoint.parent / ASIDE
    try:
        folder.mkdir(exist_ok=True)
        taken = {entry.name for entry in folder.iterdir()}
        names = (f"{checkpoint.name}{suffix}" for suffix in ["", *(f".{i}" for i in range(1000))])
        target = folder / next(name for name in names if name not in taken)
        return checkpoint.rename(target)
    except OSError as error:
        log.warning("%s stays where it is: %s", checkpoint, error.strerror)
        return None


def delete(checkpoint: Path) -> None:
    """Deletes a checkpoint; if the process is killed meanwhile, `clean` deletes the rest."""
    try:
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(checkpoint.name + TEMPORARY)))
    except OSError as error:
        log.warning("%s could not be deleted: %s", checkpoint, error.strerror)


def clean(directory: Path) -> None:
    """Deletes the remains of killed or failed saves."""
    for entry in directory.glob(f"*{TEMPORARY}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)

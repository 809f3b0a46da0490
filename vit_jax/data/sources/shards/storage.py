"""Files on this machine or under an address that fsspec reads, at random.

Every read is one ranged request of its own, so that threads can read side by side.
"""

import contextlib
import functools
import glob
import os
import re
import time
from collections.abc import Iterator
from typing import Protocol

from vit_jax.data.sources import record_files
from vit_jax.errors import InputError
from vit_jax.text import first_line, reason

AT_ONCE = 16  # requests at a time
_ATTEMPTS = 3
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "Last-Modified",
             "updated", "generation", "created", "md5Hash", "crc32c", "Content-MD5")  # fmt: skip


class FileSystem(Protocol):
    """What is used of a file system of fsspec."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes: ...

    def info(self, path: str) -> dict: ...

    def isdir(self, path: str) -> bool: ...

    def ls(self, path: str, detail: bool = True) -> list: ...

    def glob(self, path: str) -> list[str]: ...

    def unstrip_protocol(self, name: str) -> str: ...


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Turns what file systems raise into an InputError of one line.

    Libraries of stores raise errors of their own besides OSError.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: cannot be read: no such file") from None
    except Exception as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None


@functools.lru_cache(maxsize=64)
def _file_system(protocol: str, path: str) -> FileSystem:
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{path} needs fsspec: pip install 'vit_jax[remote]'") from None
    try:
        return fsspec.core.url_to_fs(path)[0]
    except ImportError as error:
        raise InputError(f"{path}: {first_line(error)}: pip install 'vit_jax[remote]'") from None
    except Exception as error:
        raise InputError(f"{path}: {first_line(error)}") from None


def _remote(path: str) -> FileSystem:
    protocol, _, rest = path.partition("://")
    return _file_system(protocol, f"{protocol}://{rest.partition('/')[0]}")


def read(path: str, length: int, offset: int) -> bytes:
    """Bytes [offset, offset + length) of a file, fewer at its end.

    Raises:
      InputError: the file cannot be read, three times if it is remote; or the server sends
        something else than the part that was asked for.
    """
    if not record_files.is_remote(path):
        with _named(path), open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)
    with _named(path):
        found = _patiently(path, offset, offset + length)
        if len(found) > length:
            raise InputError(f"{path}: the server sends whole files, not parts of them; copy it")
        return found


def _patiently(path: str, start: int, end: int) -> bytes:
    for attempt in range(_ATTEMPTS):
        try:
            return _remote(path).cat_file(path, start=start, end=end)
        except (*_FOR_GOOD, InputError):
            raise
        except Exception:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.5 * 4**attempt)
    raise AssertionError


def facts(path: str) -> tuple[int, str]:
    """Size in bytes of a file, and a text that changes with its content.

    Raises:
      InputError: it cannot be read, or a server does not tell its size or reads no parts.
    """
    with _named(path):
        if not record_files.is_remote(path):
            size, changed = record_files.facts(path)
            return size, str(changed)
        info = _remote(path).info(path)
        if info.get("size") is None or info.get("partial") is False:
            raise InputError(f"{path}: the server sends whole files, not parts of them; copy it")
        return int(info["size"]), repr([str(info[key]) for key in _VERSIONS if key in info])


def small_file(path: str, limit: int = 2**26) -> bytes | None:
    """The content of a text file beside the data; None if there is none.

    Raises:
      InputError: it cannot be read, or holds more bytes than `limit`.
    """
    if not record_files.is_remote(path):
        if not os.path.exists(path):
            return None
    else:
        with _named(path):
            try:
                _remote(path).info(path)
            except FileNotFoundError:
                return None
    found = read(path, limit, 0)
    if len(found) == limit:
        raise InputError(f"{path}: larger than {limit:,} bytes")
    return found


def expand(pattern: str, ending: str) -> list[str]:
    """The files that an address names, sorted by name.

    Args:
      pattern: a file, a pattern with {000..146}, {a,b}, *, ? or [...], or a folder, whose
        files and whose folders' files are taken.
      ending: of the files that are taken of folders.

    Raises:
      InputError: nothing is there, or a folder has no such file.
    """
    found: dict[str, None] = {}
    for part in braces(pattern):
        if not record_files.is_remote(part):
            names = _local(os.path.expanduser(part), ending)
        else:
            with _named(part):
                names = _under(_remote(part), part, ending)
        found |= dict.fromkeys(names)
    return list(found)


def _local(path: str, ending: str) -> list[str]:
    if os.path.isdir(path):
        inside = [glob.glob(os.path.join(glob.escape(path), deep)) for deep in ("*", "*/*")]
        names = sorted(name for names in inside for name in names if name.endswith(ending))
        return _some(names, path, f"holds no file that ends in {ending}")
    if os.path.exists(path) or path == glob.escape(path):
        return [path]
    return _some(sorted(glob.glob(path, recursive=True)), path, "matches no file")


def _under(files: FileSystem, path: str, ending: str) -> list[str]:
    web = path.startswith(("http://", "https://"))  # where ? begins a query
    if any(sign in path for sign in ("*[" if web else "*?[")):
        return _some(sorted(map(files.unstrip_protocol, files.glob(path))), path, "matches no file")
    if path.endswith(ending) or (web and "?" in path) or not files.isdir(path):
        return [path]
    names = []
    for entry in files.ls(path, detail=True):
        below = files.ls(entry["name"], detail=True) if entry["type"] == "directory" else [entry]
        names += [found["name"] for found in below if found["name"].endswith(ending)]
    return _some(
        sorted(map(files.unstrip_protocol, names)), path, f"holds no file that ends in {ending}"
    )


def _some(names: list[str], path: str, problem: str) -> list[str]:
    if not names:
        raise InputError(f"{path} {problem}")
    return names


_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_NAMES = 1_000_000


def braces(pattern: str) -> list[str]:
    """Names that a pattern with braces stands for, as in a shell: {08..10} is 08, 09 and 10.

    Raises:
      InputError: braces that hold neither a range nor several words, or over a million names.
    """
    found = [""]
    place = 0
    for match in _BRACES.finditer(pattern):
        words = _words(match[1], pattern)
        if len(found) * len(words) > _MAX_NAMES:
            raise InputError(f"{pattern} stands for more than {_MAX_NAMES:,} files")
        between = pattern[place : match.start()]
        found = [start + between + word for start in found for word in words]
        place = match.end()
    rest = pattern[place:]
    if "{" in rest or "}" in rest:
        raise InputError(f"bad braces in {pattern}; write e.g. train-{{000..146}}.tar")
    return [start + rest for start in found]


def _words(inside: str, pattern: str) -> list[str]:
    if match := _RANGE.fullmatch(inside):
        if max(map(len, match.groups())) > 9 or abs(int(match[1]) - int(match[2])) >= _MAX_NAMES:
            raise InputError(f"{pattern} stands for more than {_MAX_NAMES:,} files")
        first, last = int(match[1]), int(match[2])
        padded = any(len(text) > 1 and text[0] == "0" for text in match.groups())
        width = max(map(len, match.groups())) if padded else 0
        step = 1 if first <= last else -1
        return [str(number).zfill(width) for number in range(first, last + step, step)]
    if "," not in inside:
        raise InputError(f"bad braces in {pattern}; write e.g. train-{{000..146}}.tar")
    return inside.split(",")

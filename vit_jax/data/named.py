"""Images that a user names: files, folders, patterns, and addresses on the web or in a store."""

import dataclasses
import glob
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence

import numpy as np

from vit_jax.data.ops.image_files import HEAD_BYTES
from vit_jax.data.ops.op import Tensor
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.sources.folder import EXTENSIONS
from vit_jax.data.sources.shards import storage
from vit_jax.data.sources.source import FileSource, Source
from vit_jax.errors import InputError
from vit_jax.text import natural, reason

MOST_BYTES = 2**28  # of one image at an address
SECONDS = 60  # that a web server may stay silent
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WEB = ("http://", "https://")
# Some servers refuse the name that Python's library gives itself.
_HEADERS = {"User-Agent": "vit_jax (https://pypi.org/project/vit_jax)", "Accept": "image/*,*/*"}


def is_address(name: str) -> bool:
    """Whether a name is an address such as https://host/cat.jpg or s3://bucket/cat.jpg."""
    return _ADDRESS.match(name) is not None


def find_images(paths: Sequence[str]) -> list[str]:
    """The images that arguments name, each once.

    Args:
      paths: files; folders, whose images at any depth are taken in order of their names, 2
        before 10; patterns with *, ? or [...]; and addresses, which are not read yet.

    Returns:
      Their names. A file that does not exist is among them, if others do: reading it fails, and
      the others are not lost.

    Raises:
      InputError: none of the files exists, or a folder or pattern has no image.
    """
    found: dict[str, None] = {}
    missing: list[str] = []
    for path in paths:
        inside = images_at(path)
        missing += [] if inside else [path]
        found |= dict.fromkeys(inside or [path])
    if missing and not found.keys() - set(missing):
        raise InputError(f"image {missing[0]} does not exist")
    return list(found)


def images_at(path: str) -> list[str]:
    """The images that one argument names, see `find_images`; [] for a file that does not exist.

    Raises:
      InputError: a folder or pattern has no image.
    """
    if is_address(path):
        return [path]
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        inside = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(EXTENSIONS)
        ]
        if not inside and os.path.exists(os.path.join(path, "config.json")):
            raise InputError(f"no image in {path}, which holds a run or a model")
        if not inside:
            raise InputError(f"no image in {path}; its names end in {', '.join(EXTENSIONS)}")
        return sorted(inside, key=natural)
    if os.path.exists(path):
        return [path]
    matches = sorted(filter(os.path.isfile, glob.glob(path, recursive=True)), key=natural)
    if not matches and path != glob.escape(path):
        raise InputError(f"image {path} matches no file")
    return matches


def read_address(address: str) -> bytes:
    """The bytes of one image at an address.

    http and https are read by Python's own library, others by fsspec.

    Raises:
      InputError: it cannot be read, or holds more than `MOST_BYTES`.
    """
    if address.lower().startswith(_WEB):
        found = _read_web(address)
    else:
        try:
            found = storage.read(address, MOST_BYTES + 1, 0)
        except InputError as error:
            named = str(error).startswith(f"{address}: ")
            raise error if named else InputError(f"{address}: {error}") from None
    if len(found) > MOST_BYTES:
        raise InputError(f"{address}: larger than {MOST_BYTES:,} bytes")
    return found


def _read_web(address: str) -> bytes:
    try:
        request = urllib.request.Request(address, headers=_HEADERS)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        problem = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        why = error.reason
        problem = reason(why) if isinstance(why, BaseException) else str(why)
    except Exception as error:  # of the address, the connection, or the protocol
        problem = reason(error)
    raise InputError(f"{address}: cannot be read: {problem}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedSource(FileSource):
    """Files and addresses without labels; payloads are the bytes of the images."""

    heads: dict[int, bytes] = dataclasses.field(default_factory=dict, compare=False)

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = [self._read(int(i)) for i in index]
        return payloads

    def file_bytes(self, index: int) -> bytes:
        return self._read(index)

    def _read(self, index: int) -> bytes:
        name = self.describe(index)
        if is_address(name):
            found = read_address(name)
        else:
            try:
                found = self.encoded(index)
            except FileNotFoundError:
                raise InputError(f"{name}: no such file") from None
            except OSError as error:
                raise InputError(f"{name}: cannot be read: {reason(error)}") from None
        self.heads[index] = found[:HEAD_BYTES]
        return found

    def example(self, preprocess: Preprocess, payload: Tensor, words: Tensor) -> dict[str, Tensor]:
        return Source.example(self, preprocess, payload, words)

    def head(self, index: int) -> bytes:
        return self.heads.get(index, b"")


def open_images(paths: Sequence[str], max_pixels: int) -> FileSource:
    """A source of images by name: `FileSource` if all are files, else `NamedSource`."""
    kind = NamedSource if any(map(is_address, paths)) else FileSource
    return kind.of_paths(paths, max_pixels)

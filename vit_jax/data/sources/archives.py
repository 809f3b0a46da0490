"""Reads NumPy archives (.npz) whose headers may claim more than the file holds."""

import math
import os
import zipfile
import zlib

import numpy as np

# What damaged or hostile archives raise, besides OSError.
DAMAGED = (
    ValueError, TypeError, KeyError, EOFError, SyntaxError, NotImplementedError, RuntimeError,
    MemoryError, OverflowError, RecursionError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
MAX_EXPANSION = 1032  # of deflate: bytes that one compressed byte can stand for


def read_archive(path: str) -> dict[str, np.ndarray]:
    """The arrays of an archive by key.

    The sizes in all headers are checked before any array is allocated.

    Raises:
      OSError: the file cannot be read.
      DAMAGED: it is no archive, is damaged, or claims more than it holds.
    """
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("no NumPy archive, or a truncated one")
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as members:
            if sum(member.compress_size for member in members.infolist()) > size:
                raise ValueError("its members claim more bytes than the file has")
            for member in members.infolist():
                _check_claim(members, member, size)
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {key: np.asarray(archive[key]) for key in archive.files}


def _check_claim(members: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> None:
    """Refuses a member that claims more bytes than `size`, that of the file, can stand for."""
    with members.open(member) as data:
        if data.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return  # no array
        data.seek(0)
        version = np.lib.format.read_magic(data)
        reader = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(data)
        claimed = math.prod(shape) * dtype.itemsize
        held = min(member.file_size, MAX_EXPANSION * min(member.compress_size, size)) - data.tell()
    if claimed > held:
        raise ValueError(f"{member.filename} claims {claimed:,} bytes and holds fewer")

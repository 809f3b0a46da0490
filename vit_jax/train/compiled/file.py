"""The file of a compiled step: a line of magic, a line of JSON, the executable's bytes."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.text import reason

MAGIC = b"vit_jax compiled step 1\n"
MOST_HEADER = 2**20  # bytes


def write(path: str, facts: Mapping[str, Any], payload: bytes) -> None:
    """Writes a file.

    Args:
      path: path of the file.
      facts: facts about the step that JSON can express.
      payload: the serialized executable.

    Raises:
      InputError: the file cannot be written.
    """
    header = json.dumps(dict(facts, sha256=hashlib.sha256(payload).hexdigest()))

    def content(file: BinaryIO) -> None:
        file.write(MAGIC + header.encode() + b"\n")
        file.write(payload)

    try:
        write_atomic(path, content)
    except OSError as error:
        raise InputError(f"--save={path}: cannot be written: {reason(error)}") from error


def read(path: str) -> tuple[dict[str, Any], bytes]:
    """The facts and the executable of a file.

    Raises:
      InputError: it cannot be read, is another kind of file, or is damaged.
    """
    try:
        with open(os.path.expanduser(path), "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"--compiled={path} is no file of `vit_jax plan --save`")
            line = file.readline(MOST_HEADER)
            payload = file.read()
    except OSError as error:
        raise InputError(f"--compiled={path}: cannot be read: {reason(error)}") from error
    try:
        facts = json.loads(line)
        intact = facts["sha256"] == hashlib.sha256(payload).hexdigest()
    except (ValueError, LookupError, TypeError):
        intact = False
    if not intact:
        raise InputError(f"--compiled={path} is damaged; make it again with `vit_jax plan --save`")
    return facts, payload

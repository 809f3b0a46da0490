"""The members of a tar file: names and places, from its headers alone.

Written from the POSIX description of the format (pax, IEEE Std 1003.1) with GNU's long names.
The content of members is not read, so that a header may claim any size without taking memory.
"""

import dataclasses
from collections.abc import Iterator

from vit_jax.data.sources.record_files import ReadAt
from vit_jax.errors import InputError

_BLOCK = 512
_MAX_RECORD = 2**20  # bytes of a long name, or of a pax record
_FILES = b"0\0007"
_LINKS = {b"1": "hard", b"2": "symbolic"}


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a tar file.

    Attributes:
      name: path in the tar file.
      offset, size: place of its content in bytes.
      link: "hard" or "symbolic" for a link, which has no content.
    """

    name: str
    offset: int
    size: int
    link: str = ""


def members(path: str, read_at: ReadAt, size: int) -> Iterator[Member]:
    """The files and links of a tar file, in order.

    Args:
      path: name of the tar file in messages.
      read_at: function (length, offset) -> bytes of it.
      size: its size in bytes.

    Raises:
      InputError: it is no tar file, is damaged or truncated, or a header claims more bytes
        than the file has.
    """
    place, count = 0, 0
    long_name: str | None = None
    long_size: int | None = None
    while True:
        header = read_at(_BLOCK, place)
        if len(header) < _BLOCK:
            raise InputError(_cut_off(path, count))
        if not any(header):
            return
        _check(header, path, place)
        kind, held = header[156:157], _number(header[124:136], path, count)
        start = place + _BLOCK
        if kind in b"LKxg":
            if held > _MAX_RECORD:
                raise InputError(f"{path}: the header of member {count} claims {held:,} bytes")
            text = read_at(held, start)
            if len(text) < held:
                raise InputError(_cut_off(path, count))
            if kind == b"L":
                long_name = _text(text.partition(b"\0")[0])
            elif kind == b"x":
                name, stated = _pax(text, path, count)
                long_name = long_name if name is None else name
                long_size = long_size if stated is None else stated
        else:
            name = _name(header) if long_name is None else long_name
            held = held if long_size is None else long_size
            held = held if kind in _FILES else 0 if kind in b"123456" else held
            if kind == b"S":
                raise InputError(f"{path}: {name} is stored sparse; write the tar without --sparse")
            if start + held > size:
                raise InputError(
                    f"{path}: truncated: {name} claims {held:,} bytes, "
                    f"{max(0, size - start):,} are left"
                )
            if kind in _LINKS or (kind in _FILES and not name.endswith("/")):
                yield Member(name, start, held, _LINKS.get(kind, ""))
            count += 1
            long_name = long_size = None
        place = start + -(-held // _BLOCK) * _BLOCK


def _cut_off(path: str, count: int) -> str:
    return f"{path}: truncated behind {count} members, as its end mark is missing; fetch it again"


def _check(header: bytes, path: str, place: int) -> None:
    """Compares the checksum of a header."""
    try:
        stated = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        stated = -1
    if stated == sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        return
    if place:
        raise InputError(f"{path}: damaged at byte {place:,}: no header of a member is there")
    compressed = header.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))
    why = "compressed, so that its members cannot be read at random: unpack it" * compressed
    raise InputError(f"{path}: {why or 'no tar file'}")


def _number(field: bytes, path: str, count: int) -> int:
    """A number of a header: octal digits, or for large ones a byte 0x80 and then base 256."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    try:
        value = int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise InputError(f"{path}: the size of member {count} is no number")
    return value


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _pax(text: bytes, path: str, count: int) -> tuple[str | None, int | None]:
    """Name and size in an extended header, whose records are b"LENGTH KEY=VALUE\\n"."""
    found: dict[bytes, bytes] = {}
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, mark, value = text[len(digits) + 1 : length].partition(b"=")
        if length > len(text) or not mark or not value.endswith(b"\n"):
            raise InputError(f"{path}: the extended header of member {count} is damaged")
        found[key] = value[:-1]
        text = text[length:]
    if any(key.startswith(b"GNU.sparse") for key in found):
        raise InputError(f"{path}: member {count} is stored sparse; write the tar without --sparse")
    size = found.get(b"size")
    if size is not None and not (size.isdigit() and len(size) < 20):
        raise InputError(f"{path}: the size of member {count} is no number")
    name = found.get(b"path")
    return None if name is None else _text(name), None if size is None else int(size)

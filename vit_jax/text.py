"""Text of messages: lists that stay short, errors in one line, names from files escaped."""

import contextlib
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence


def printable(text: object) -> str:
    """Text in one line that a terminal shows as it is: control characters are escaped.

    Names of files and classes come from others and may hold escape sequences, newlines,
    characters that reverse the direction of writing, or bytes that are not UTF-8 (in Python
    lone surrogates); these become \\n, \\x1b, \\u202e, \\xe9.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return character  # wide spaces
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()


class PrintableFormatter(logging.Formatter):
    """Formats log records as their message in one line, by `printable`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(record.message)


@contextlib.contextmanager
def root_logger_kept() -> Iterator[None]:
    """Keeps libraries from giving Python's root logger a handler, as absl does when it logs.

    That handler would print every line of vit_jax once more, and stay.
    """
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    nothing = logging.NullHandler()
    root.addHandler(nothing)
    try:
        yield
    finally:
        root.removeHandler(nothing)


def natural(text: str) -> list[str | int]:
    """A key that sorts texts by the numbers in them, 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", text)]


def count(number: int, noun: str) -> str:
    """A number of things: "1 image", "2,000 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def some(names: Sequence[object], limit: int = 3, separator: str = ", ") -> str:
    """The first `limit` names: "a, b, c and 4 more"."""
    shown = separator.join(map(str, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def shown(value: object, limit: int = 40) -> str:
    """A value as Python writes it, cut off after `limit` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deep, or an integer of thousands of digits
        return type(value).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def first_line(error: BaseException, limit: int = 300) -> str:
    """An error's type and the first line of its message, cut off after `limit` characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:limit]}"


def reason(error: BaseException) -> str:
    """Why a file cannot be used: the system's message, or the error in one line."""
    words = error.strerror if isinstance(error, OSError) else None
    return words or first_line(error)

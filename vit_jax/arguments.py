"""Arguments of functions that users call: their types, and their names in messages."""

import contextlib
import contextvars
import numbers
import os
from collections.abc import Iterator

from vit_jax.errors import InputError
from vit_jax.text import shown

_flags = contextvars.ContextVar("named_as_flags", default=False)
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
_KINDS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}


@contextlib.contextmanager
def named_as_flags() -> Iterator[None]:
    """Lets messages name arguments as the command line does."""
    token = _flags.set(True)
    try:
        yield
    finally:
        _flags.reset(token)


def argument(name: str) -> str:
    """The name of an argument for a message: batch_size, on the command line --batch-size."""
    return f"--{name.replace('_', '-')}" if _flags.get() else name


def path_given(value: object, name: str) -> str:
    """A path as text.

    Raises:
      InputError: it is no path; names the argument.
    """
    if isinstance(value, str | os.PathLike) and isinstance(text := os.fspath(value), str):
        return text
    raise InputError(f"{name} is {shown(value)}; give a path, as a text or a pathlib.Path")


def check_given(value: object, name: str, kind: type, *, optional: bool = False) -> None:
    """Checks the type of an argument.

    Args:
      value: value that was given.
      name: name of the argument.
      kind: str, int, float or bool; NumPy's numbers are numbers, too.
      optional: whether None is accepted.

    Raises:
      InputError: it has another type; names the argument.
    """
    if value is None and optional:
        return
    if not isinstance(value, _KINDS.get(kind, kind)) or (
        isinstance(value, bool) and kind is not bool
    ):
        end = " or None" if optional else ""
        raise InputError(f"{name} is {shown(value)}; give {_WORDS[kind]}{end}")

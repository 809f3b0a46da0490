"""Checks of what comes from outside, with errors of one line.

JSON that is read back, its syntax and types; and the arguments of functions that users call.

A file's schema is a TypedDict beside the code that writes the file:

    class Line(TypedDict):
        step: int
        loss: NotRequired[float]

    line = check(parse(content), Line)
"""

import contextlib
import contextvars
import json
import numbers
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError
from vit_jax.text import shown

MAX_INTEGER = 2**63 - 1
_flags = contextvars.ContextVar("named_as_flags", default=False)
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
_KINDS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def parse(content: bytes) -> Any:
    """Parses JSON in UTF-8.

    Raises:
      ValueError: the content is not UTF-8, is not JSON, or is nested too deep.
    """
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def check(value: Any, kind: Any, name: str = "") -> Any:
    """Checks a parsed value against a type and returns the value; unknown keys are accepted.

    Args:
      value: parsed JSON.
      kind: a TypedDict, int, float, str, bool, dict[str, X], list[X], tuple[X, X] or
        tuple[X, ...] (in JSON a list), a union of these, or Any.
      name: name of the value in the message.

    Raises:
      ValueError: names the first key that is missing or has another type.
    """
    if problem := _problem(value, kind, name):
        raise ValueError(problem)
    return value


def read(path: Path, kind: Any) -> Any:
    """Reads and checks a JSON file.

    Raises:
      InputError: names the file, and the key if a type is wrong.
    """
    try:
        return check(parse(path.read_bytes()), kind)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); restore or delete it") from error


def _problem(value: Any, kind: Any, name: str) -> str:
    """What is wrong with a value, "" if nothing is."""
    if kind is Any:
        return ""
    if typing.is_typeddict(kind):
        return _fields_problem(value, kind, name)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        problems = [_problem(value, one, name) for one in args]
        return "" if "" in problems else problems[0]
    if origin is typing.NotRequired:
        return _problem(value, args[0], name)
    if (origin or kind) is dict:
        if not isinstance(value, dict):
            return _wrong(value, "an object", name)
        inner = args[1] if args else Any
        return _first(_problem(v, inner, _join(name, key)) for key, v in value.items())
    if (origin or kind) is list:
        if not isinstance(value, list):
            return _wrong(value, "a list", name)
        inner = args[0] if args else Any
        return _first(_problem(v, inner, f"{name}[{i}]") for i, v in enumerate(value))
    if origin is tuple:
        inner, count = args[0], None if args[-1] is Ellipsis else len(args)
        if not isinstance(value, (list, tuple)) or count not in (None, len(value)):
            return _wrong(value, f"a list of {count}" if count else "a list", name)
        return _first(_problem(v, inner, f"{name}[{i}]") for i, v in enumerate(value))
    if kind in (None, types.NoneType):
        return "" if value is None else _wrong(value, "null", name)
    fits = isinstance(value, (int, float) if kind is float else kind)
    if kind in (int, float):
        fits = fits and not isinstance(value, bool)
        fits = fits and not (isinstance(value, int) and abs(value) > MAX_INTEGER)
    return "" if fits else _wrong(value, _NAMES[kind], name)


def _fields_problem(value: Any, kind: Any, name: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, "an object", name)
    hints = typing.get_type_hints(kind, include_extras=True)
    for key, hint in hints.items():
        if key in value:
            if problem := _problem(value[key], hint, _join(name, key)):
                return problem
        elif typing.get_origin(hint) is not typing.NotRequired:
            return f"{_join(name, key)} is missing"
    return ""


def _first(problems: typing.Iterable[str]) -> str:
    return next(filter(None, problems), "")


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _wrong(value: Any, wanted: str, name: str) -> str:
    return f"{name or 'it'} is {shown(value)}, not {wanted}"


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

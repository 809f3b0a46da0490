"""Names with arguments, such as "window(7, relative=True)", for entries of a registry."""

import ast
import dataclasses
import inspect
import numbers
import typing
from collections.abc import Callable
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.registry import Registry


def internal() -> Any:
    """A field of a frozen dataclass, None at first, that the program sets: no text may give it."""
    return dataclasses.field(default=None, kw_only=True, repr=False, metadata={"internal": True})


def create(registry: Registry[Callable[..., Any]], text: str, where: str) -> Any:
    """Calls a registered class or function with the arguments in a text.

    Args:
      registry: registry in which the name is looked up.
      text: name, with or without numbers, strings or tuples in parentheses.
      where: name of the option in messages, such as "config.loss.name".

    Returns:
      The result of the call.

    Raises:
      InputError: an unknown name, arguments that it does not take, or values it refuses.
    """
    name, args, kwargs = parse(text, where)
    if name not in registry:
        registry[name]  # raises, with the nearest name
    thing = registry[name]
    check_arguments(thing, text, where)
    try:
        made = thing(*args, **kwargs)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} {text!r}: {error}") from error
    # Afterwards, since a class's own checks say more.
    check_types(thing, text, where)
    return made


def check_arguments(thing: Callable[..., Any], text: str, where: str, given: int = 0) -> None:
    """Checks the names and the number of a text's arguments.

    Args:
      thing: class or function that is to be called with them.
      text, where: see `create`.
      given: number of leading arguments that the caller gives.

    Raises:
      InputError: unknown, missing or too many arguments.
    """
    name, args, kwargs = parse(text, where)
    parameters = arguments(thing)[given:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return
    names = [parameter.name for parameter in parameters]
    in_order = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    if not names and (args or kwargs):
        raise InputError(f"{where} {text!r}: {name} takes no arguments")
    for key in kwargs:
        if key not in names:
            raise unknown(f"argument of {where} {name}:", key, names)
    if len(args) > len(in_order):
        takes = f"takes only {', '.join(in_order) or 'arguments with names'}"
        if by_name := names[len(in_order) :]:
            takes += f" without a name; give others as {', '.join(f'{key}=...' for key in by_name)}"
        raise InputError(f"{where} {text!r}: {name} {takes}")
    _check_once([*in_order[: len(args)], *kwargs], f"{where} {text!r}")
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.name not in [*in_order[: len(args)], *kwargs]
    ]
    if missing:
        example = ", ".join([*map(repr, args), *(f"{key}=..." for key in missing)])
        listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        raise InputError(f"{where} {text!r}: give {listed}, as in {name}({example})")


def arguments(thing: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a text may give: all but the fields made by `internal`."""
    fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
    hidden = {field.name for field in fields if "internal" in field.metadata}
    return [p for p in inspect.signature(thing).parameters.values() if p.name not in hidden]


MEANT = {bool: "True or False", int: "a whole number", float: "a number", str: "a text in quotes"}


def check_types(thing: Callable[..., Any], text: str, where: str, given: int = 0) -> None:
    """Checks the values of a text's arguments whose types are plain; see `check_arguments`.

    Raises:
      InputError: a value has another type.
    """
    _, args, kwargs = parse(text, where)
    values = dict(zip([p.name for p in arguments(thing)[given:]], args)) | kwargs
    try:
        hints = typing.get_type_hints(thing)
    except (NameError, TypeError):  # names that only a type checker imports; no function or class
        return
    for key, value in values.items():
        hint = hints.get(key)
        if hint in MEANT and not fits(value, hint):
            raise InputError(f"{where} {text!r}: {key} is {value!r}; give {MEANT[hint]}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type: one of bool, int, float, str, None, or a union."""
    if kinds := typing.get_args(hint):
        return any(fits(value, kind) for kind in kinds)
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def parse(text: str, where: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Name, positional and keyword arguments of a text such as "window(7, relative=True)".

    Raises:
      InputError: the text is not a name, an argument is not a plain value, or is given twice.
    """
    if not isinstance(text, str):
        raise InputError(f"{where} is {text!r}; give a name in quotes, such as 'window(7)'")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        node = None
    if isinstance(node, ast.Name):
        return node.id, (), {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        args = tuple(_value(argument, text, where) for argument in node.args)
        for word in node.keywords:
            if word.arg is None:
                raise _no_value(f"**{ast.unparse(word.value)}", text, where)
        words = [(str(word.arg), _value(word.value, text, where)) for word in node.keywords]
        _check_once([key for key, _ in words], f"{where} {text!r}")
        return node.func.id, args, dict(words)
    raise InputError(
        f"{where} {text!r} is not understood; write a name, or a name with plain values in "
        "parentheses, such as window(7, relative=True)"
    )


def _value(node: ast.expr, text: str, where: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise _no_value(ast.unparse(node), text, where) from None


def _no_value(written: str, text: str, where: str) -> InputError:
    return InputError(
        f"{where} {text!r}: {written} is no plain value; give a number, a text in quotes, True, "
        "False, None, or a tuple of them"
    )


def _check_once(names: list[str], where: str) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{where} gives {twice[0]} twice")

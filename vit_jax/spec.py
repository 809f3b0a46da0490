"""Names with arguments, such as "window(7, relative=True)", for entries of a registry."""

import ast
import inspect
import numbers
import typing
from collections.abc import Callable
from typing import Any

from vit_jax.errors import InputError, unknown
from vit_jax.registry import Registry


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
    parameters = [*inspect.signature(thing).parameters.values()][given:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return
    names = [parameter.name for parameter in parameters]
    for key in kwargs:
        if key not in names:
            raise unknown(f"argument of {where} {name}:", key, names or ["none"])
    if len(args) > len(names):
        takes = f"takes only {', '.join(names)}" if names else "takes no arguments"
        raise InputError(f"{where} {text!r}: {name} {takes}")
    if twice := [key for key in names[: len(args)] if key in kwargs]:
        raise InputError(f"{where} {text!r} gives {twice[0]} twice")
    for parameter in parameters[len(args) :]:
        if parameter.default is parameter.empty and parameter.name not in kwargs:
            raise InputError(
                f"{where} {text!r}: give {parameter.name}, as in {name}({parameter.name}=...)"
            )


_MEANT = {bool: "True or False", int: "a whole number", float: "a number", str: "a text in quotes"}


def check_types(thing: Callable[..., Any], text: str, where: str, given: int = 0) -> None:
    """Checks the values of a text's arguments whose types are plain; see `check_arguments`.

    Raises:
      InputError: a value has another type.
    """
    _, args, kwargs = parse(text, where)
    values = dict(zip([*inspect.signature(thing).parameters][given:], args)) | kwargs
    try:
        hints = typing.get_type_hints(thing)
    except NameError:  # names that only a type checker imports
        return
    for key, value in values.items():
        hint = hints.get(key)
        if hint in _MEANT and not fits(value, hint):
            raise InputError(f"{where} {text!r}: {key} is {value!r}; give {_MEANT[hint]}")


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
      InputError: the text is not a name, or an argument is not a plain value.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, (), {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            args = tuple(ast.literal_eval(argument) for argument in node.args)
            kwargs = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
            if len(kwargs) == len(node.keywords):  # none is given twice
                return node.func.id, args, kwargs
    except (SyntaxError, ValueError):
        pass
    raise InputError(
        f"{where} {text!r} is not understood; write a name, or a name with plain values in "
        "parentheses, such as window(7, relative=True)"
    )

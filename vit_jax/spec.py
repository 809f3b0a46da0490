"""Names with arguments, such as "window(7, relative=True)", for entries of a registry."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

from vit_jax.errors import InputError
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
    try:
        inspect.signature(thing).bind(*args, **kwargs)
        return thing(*args, **kwargs)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} {text!r}: {error}") from error


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
            return node.func.id, args, kwargs
    except (SyntaxError, ValueError):
        pass
    raise InputError(
        f"{where} {text!r} is not understood; write a name, or a name with plain values in "
        "parentheses, such as window(7, relative=True)"
    )

"""Names with arguments, such as "window(4, shift=True)", for things in a registry."""

import ast
import inspect
from collections.abc import Callable
from typing import Any

from vit_jax.errors import InputError
from vit_jax.registry import Registry


def create(registry: Registry[Callable[..., Any]], text: str, where: str) -> Any:
    """What a registered class or function returns for the arguments in a text.

    Args:
      registry: where the name is looked up.
      text: a name, or a name with plain numbers, texts or tuples in parentheses.
      where: what messages call the option, such as "config.loss.name".

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
    """Name, arguments and arguments by name of a text such as "window(4, shift=True)".

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
        "parentheses, such as window(4, shift=True)"
    )

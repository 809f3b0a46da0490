"""Errors a user can cause, and the one line each of them prints."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input: one line that names the thing, where it stands, and the remedy.

    The command line prints the message and exits with status 2.

    Example:
        >>> try:
        ...     vit_jax.create_model("ViT-B/16", heads=3)
        ... except vit_jax.InputError as error:
        ...     print(error)
        unknown model option 'heads' (did you mean 'head'?)
    """


def nearest(name: str, options: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns " (did you mean 'x'?)" for the option closest to `name`, else "".

    Matching ignores case: `Adamw` finds `adamw`. `cutoff` is the similarity, from 0 to 1, that
    is needed.
    """
    if str(name).isdigit():  # no number is a misspelled one
        return ""
    by_lower = {str(option).lower(): str(option) for option in options}
    match = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=cutoff)
    return suggestion(by_lower[match[0]]) if match else ""


def suggestion(name: str) -> str:
    """The end of a message that suggests a name."""
    return f" (did you mean {name!r}?)"


def unknown(kind: str, name: object, options: Iterable[str]) -> InputError:
    """The InputError for a name that is not in `options`; it suggests the nearest one."""
    options = sorted(str(option) for option in options)
    hint = nearest(str(name), options) or f"; known: {', '.join(options)}"
    return InputError(f"unknown {kind} {name!r}{hint}")


class Preempted(Exception):
    """A run stopped early with its state saved; exit status 75."""


class NotSavedError(RuntimeError):
    """A run stopped early and its state could not be saved; exit status 1."""


class NonFiniteError(RuntimeError):
    """A run stopped because too many steps in a row were not finite; exit status 1."""

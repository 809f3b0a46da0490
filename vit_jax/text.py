"""Text for messages: short lists, errors in one line."""

from collections.abc import Sequence


def some(names: Sequence[object], limit: int = 3, separator: str = ", ") -> str:
    """The first `limit` names: "a, b, c and 4 more"."""
    shown = separator.join(map(str, names[:limit]))
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def first_line(error: BaseException, limit: int = 300) -> str:
    """An error's type and the first line of its message, cut off after `limit` characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:limit]}"


def reason(error: BaseException) -> str:
    """Why a file cannot be used: the system's message, or the error in one line."""
    words = error.strerror if isinstance(error, OSError) else None
    return words or first_line(error)

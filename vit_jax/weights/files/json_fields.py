"""Reads JSON objects strictly: every field is understood, harmless, or refused by name."""

from collections.abc import Collection, Mapping
from typing import Any

from vit_jax.errors import InputError

MAX_NUMBER = 1_000_000  # no size, depth or number of classes is larger
_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
_KINDS |= {list: "a list", dict: "an object"}


class Fields:
    """A JSON object; `close` refuses the fields that nobody has read.

    Args:
      document: the parsed JSON.
      where: name of the file, and of the object in it, for messages.
    """

    def __init__(self, document: Any, where: str):
        if not isinstance(document, Mapping):
            raise InputError(f"{where} is {_short(document)}; it must be a JSON object")
        self.where = where
        self._left: dict[str, Any] = dict(document)

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """The value of a field; `default` if it is missing or null.

        Raises:
          InputError: the value is not of the kind, or too large.
        """
        value = self._left.pop(name, None)
        if value is None:
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) <= MAX_NUMBER else value
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(name, value, f"it must be {_KINDS[kind]}")
        if isinstance(value, (int, float)) and kind is not bool and not 0 <= value <= MAX_NUMBER:
            raise self.error(name, value, f"it must be from 0 to {MAX_NUMBER:,}")
        return value

    def size(self, name: str, default: Any = None) -> tuple[int, int] | None:
        """A field of pixels: one number or [height, width]."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        sides = value if isinstance(value, (list, tuple)) else [value, value]
        if len(sides) != 2 or not all(_is_side(side) for side in sides):
            raise self.error(name, value, "it must be pixels or [height, width]")
        return sides[0], sides[1]

    def numbers(self, name: str, count: int, default: Any = None) -> tuple[float, ...]:
        """A field of `count` numbers, or of one that stands for all of them."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        found = value if isinstance(value, (list, tuple)) else [value] * count
        if len(found) != count or not all(
            isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= MAX_NUMBER
            for x in found
        ):
            raise self.error(name, value, f"it must be {count} numbers")
        return tuple(float(x) for x in found)

    def only(self, name: str, *allowed: Any) -> Any:
        """The value of a field that must be one of `allowed`; the first if it is missing or null.

        Raises:
          InputError: it has another value.
        """
        value = self._left.pop(name, None)
        if value is None:
            return allowed[0]
        if not any(value == each and type(value) is type(each) for each in allowed):
            known = " or ".join(repr(each) for each in allowed)
            raise self.error(name, value, f"it is not supported, only {known}")
        return value

    def section(self, name: str) -> "Fields":
        """A field that is an object; {} if it is missing or null."""
        value = self._left.pop(name, None)
        return Fields({} if value is None else value, f"{self.where}: {name}")

    def rest(self) -> dict[str, Any]:
        """The fields that were not read yet."""
        return dict(self._left)

    def ignore(self, names: Collection[str]) -> None:
        """Marks fields as read that do not change what a model computes."""
        for name in names:
            self._left.pop(name, None)

    def close(self) -> None:
        """Refuses the fields that were not read.

        Raises:
          InputError: names the first of them.
        """
        for name, value in self._left.items():
            if value is not None:
                raise self.error(
                    name, value, "this field is not known here; remove it if it changes nothing"
                )

    def error(self, name: str, value: Any, why: str) -> InputError:
        """The error about a field."""
        return InputError(f"{self.where}: {name} is {_short(value)}; {why}")


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 65_536


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."

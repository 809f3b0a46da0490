"""Registries: things that are found by name, and that a user's own file may add to."""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from vit_jax.errors import InputError, unknown

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Name -> thing of one kind, in the order of registration.

    Args:
      kind: what messages call a thing, such as "optimizer".
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        """Registers a thing under a name.

        Raises:
          InputError: another thing has the name. The same file read again replaces its own.
        """
        known = self._things.get(name)
        if known is not None and _origin(known) != _origin(thing):
            raise InputError(f"{self.kind} {name!r} is registered already; choose another name")
        self._things[name] = thing
        return thing

    def register(self, name: str) -> Callable[[T], T]:
        """`add` as a decorator of a function or class."""
        return lambda thing: self.add(name, thing)

    def __getitem__(self, name: str) -> T:
        """The thing of that name.

        Raises:
          InputError: there is none; names the nearest.
        """
        if name not in self._things:
            raise unknown(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def _origin(thing: object) -> tuple[str, str]:
    """Where a function or class was defined, to know it when its file is read again."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return kind.__module__, kind.__qualname__

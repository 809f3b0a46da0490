"""Registries: functions and classes by name, to which a user's own file may add."""

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from vit_jax.errors import InputError, unknown

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to entries of one kind, in the order of registration.

    Args:
      kind: name of the kind in messages, such as "optimizer".
      *modules: modules of this package that register entries. A command imports them, in this
        order, until one has registered the name that it looks for.
    """

    def __init__(self, kind: str, *modules: str):
        self.kind = kind
        self._modules = list(modules)  # not imported yet
        self._lock = threading.RLock()  # of the imports
        self._things: dict[str, T] = {}
        self._origins: dict[str, tuple[str, str]] = {}

    def add(self, name: str, thing: T, definition: object = None) -> T:
        """Registers an entry under a name.

        Args:
          name: name in configs and commands.
          thing: entry to register.
          definition: function or class in whose file the entry is defined, if not `thing` itself.

        Raises:
          InputError: another entry has the name. A file that is read again replaces its own.
        """
        origin = _origin(thing if definition is None else definition)
        if origin[0].partition(".")[0] != __package__:
            self._import_until(lambda: False)  # so that no name is taken twice
        if self._origins.setdefault(name, origin) != origin:
            raise InputError(f"{self.kind} {name!r} is registered already; choose another name")
        self._things[name] = thing
        return thing

    def register(self, name: str) -> Callable[[T], T]:
        """`add` as a decorator of a function or class."""
        return lambda thing: self.add(name, thing)

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
          InputError: there is none; names the nearest.
        """
        if name not in self:
            raise unknown(self.kind, name, self._things)
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return self._import_until(lambda: name in self._things)

    def __iter__(self) -> Iterator[str]:
        self._import_until(lambda: False)
        return iter(self._things)

    def __len__(self) -> int:
        self._import_until(lambda: False)
        return len(self._things)

    def _import_until(self, found: Callable[[], bool]) -> bool:
        """Imports modules until `found` is true; returns whether it is.

        A module that cannot be imported is tried again by the next call.
        """
        if found():
            return True
        with self._lock:  # other threads wait for what is being imported
            for module in list(self._modules):
                if found():
                    return True
                importlib.import_module(module)
                if module in self._modules:  # it may have looked here itself
                    self._modules.remove(module)
        return found()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())


def _origin(thing: object) -> tuple[str, str]:
    """Module and name of a definition, to recognise it when its file is read again."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return kind.__module__, kind.__qualname__

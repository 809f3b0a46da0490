"""Writes docs/api.md from the docstrings of the public functions.

  python docs/build_api.py

tests/api/test_reference.py fails where the page is older than the docstrings.
"""

import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import vit_jax

PAGE = Path(__file__).parent / "api.md"
METHODS = ("preprocess", "features", "pyramid", "attention")  # of the record `info`
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Example):")
_HEAD = """# Python functions

<!-- Written by docs/build_api.py from the docstrings; change those. -->

`import vit_jax` costs next to nothing; each function imports what it needs when it is first used.
Wrong input raises `vit_jax.InputError`. Several runs may follow each other in one process, also in
a thread of a notebook: signal handlers, handlers of loggers and the device mesh are afterwards as
they were. Libraries such as TensorFlow set environment variables of their own when they are first
imported; those stay.

The examples use `workdirs/digits`, which the example of `vit_jax.train` below makes in half a
minute.
"""


def public() -> dict[str, Callable[..., Any] | type]:
    """Name of each public function, class and method of `info` -> the thing itself."""
    found: dict[str, Callable[..., Any] | type] = {}
    for name in vit_jax.__all__:
        thing = getattr(vit_jax, name)
        if isinstance(thing, ModuleType):  # a package that can be called
            thing = type(thing).__call__
        if callable(thing):
            found[f"vit_jax.{name}"] = thing
    loaded = importlib.import_module("vit_jax.checkpoint.loaded").Loaded
    return found | {f"info.{name}": getattr(loaded, name) for name in METHODS}


def page() -> str:
    """The text of docs/api.md."""
    return "\n".join([_HEAD, *(_entry(name, thing) for name, thing in public().items())])


def _entry(name: str, thing: Callable[..., Any] | type) -> str:
    text = inspect.getdoc(thing) or ""
    parts = [f"## {name}\n"]
    if not isinstance(thing, type):
        parts.append(f"```python\n{name}{_signature(thing)}\n```\n")
    parts += _formatted(text)
    return "\n".join(parts)


def _signature(function: Callable[..., Any]) -> str:
    """Arguments with their defaults, a line each if they are many; types are in the source."""
    shown = []
    starred = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        text = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        if parameter.default is not parameter.empty:
            text += f"={parameter.default!r}"
        shown.append(text)
    line = f"({', '.join(shown)})"
    return line if len(line) < 80 else "(\n" + "".join(f"    {each},\n" for each in shown) + ")"


def _formatted(text: str) -> list[str]:
    """A docstring with its sections as Markdown."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines():
        if match := _SECTION.fullmatch(line):
            blocks.append((match[1], []))
        else:
            blocks[-1][1].append(line)
    parts = []
    for title, lines in blocks:
        body = textwrap.dedent("\n".join(lines)).strip()
        if title == "Example":
            parts.append(f"```pycon\n{body}\n```\n")
        elif title in ("Args", "Attributes", "Raises"):
            items = [f"- `{names}`: {rest}" for names, rest in _items(body)]
            parts.append(f"**{title}**\n\n" + "\n".join(items) + "\n")
        elif title:
            parts.append(f"**{title}**\n\n{body}\n")
        else:
            parts.append(body + "\n")
    return parts


def _items(body: str) -> list[tuple[str, str]]:
    """(names, text) of each entry "names: text"; lines that are set in go on with it."""
    entries: list[str] = []
    for line in body.splitlines():
        if line.startswith(" ") or not re.match(r"[\w*, ]+:( |$)", line):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    pairs = [entry.partition(":") for entry in entries]
    return [(names, rest.strip()) for names, _, rest in pairs]


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE}: {len(public())} entries", file=sys.stderr)

"""Architectures of timm and the arguments that each name implies, from timm 1.0.31.

A line of a table is a name, its kind (vit, distilled, eva, beit, relpos, naflex, bit), then, except
for bit, its patch size, width, depth and heads, then the arguments that differ from the defaults of
timm's class. An indented line continues the line before. "name = other" has the arguments of
another architecture, except those that follow; None is the default of the class.
"""

import ast
import functools
from typing import Any

from vit_jax.weights.formats.timm.tables import (
    eva,
    naflexvit,
    others,
    vision_transformer,
)

_SIZES = ("patch_size", "embed_dim", "depth", "num_heads")


@functools.cache
def _lines() -> dict[str, list[str]]:
    tables = (vision_transformer.TABLE, eva.TABLE, others.TABLE, naflexvit.TABLE)
    lines = "".join(tables).replace("\n  ", " ").split("\n")
    return {name: words for name, *words in map(str.split, filter(None, lines))}


def architecture(name: str) -> tuple[str, dict[str, Any]] | None:
    """The kind of an architecture and its arguments; None if the name is not in the tables.

    Args:
      name: name as in config.json; a pretrained tag after a dot is ignored.
    """
    words = _lines().get(name.partition(".")[0])
    if words is None:
        return None
    kind, *rest = words
    if kind == "=":
        found = architecture(rest[0])
        assert found is not None  # the tables are complete
        kind, arguments = found
        rest = rest[1:]
    else:
        sizes = {} if kind == "bit" else dict(zip(_SIZES, map(int, rest)))
        arguments, rest = sizes, rest[len(sizes) :]
    pairs = [word.split("=") for word in rest]
    return kind, arguments | {key: _value(text) for key, text in pairs}


def architectures() -> list[str]:
    """All names in the tables."""
    return list(_lines())


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

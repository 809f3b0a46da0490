"""Families of files: how each is recognised, and brought to the names of its table."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.registry import Registry
from vit_jax.trees import name_patterns
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe

QKV = {"t": ("query", "key", "value"), "u": ("key", "value")}
Renames = Sequence[tuple[str, str]]


def _as_it_is(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [(name, array)]


@dataclasses.dataclass(frozen=True)
class Family:
    """One way of naming tensors.

    Attributes:
      signature: a tensor that every file of the family has and no other family's.
      table: see `layout`.
      hints: fields of the model's configuration that names and shapes do not tell.
      recipe: how images are prepared for evaluation.
      prefixes: what may stand before every name.
      renames: (pattern, replacement) that bring variants of a name to the table's.
      aside: pattern of a tensor that no classifier has, the mask token of self-supervised
        training; kept for the way back.
      unpack: (name, array) -> the tensors of single layers that one tensor of the file holds.
    """

    signature: str
    table: Table
    hints: Callable[["Recognised"], Mapping[str, Any]]
    recipe: Callable[["Recognised"], Recipe]
    prefixes: Sequence[str] = ("",)
    renames: Renames = ()
    aside: str = "(?!)"
    unpack: Callable[[str, np.ndarray], list[tuple[str, np.ndarray]]] = _as_it_is


FAMILIES: Registry[Family] = Registry("family of weight files")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A file's tensors under their table's names.

    Attributes:
      path: of the file, for messages.
      name: of the family.
      family: whose table that is.
      configs: the JSON files beside it, by name.
      tensors: by the table's names.
      original: the file's name of each.
      aside: tensors kept for the way back: "mask_token".
      left_out: the file's names of what the caller asked to leave out.
    """

    path: str
    name: str
    family: Family
    configs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    original: dict[str, str] = dataclasses.field(default_factory=dict)
    aside: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    left_out: Sequence[str] = ()

    @property
    def config_json(self) -> Mapping[str, Any]:
        """The content of config.json, {} where there is none."""
        return self.configs.get("config.json", {})


def recognise(
    path: str,
    tensors: Mapping[str, np.ndarray],
    configs: Mapping[str, Any],
    leave_out: Sequence[str] = (),
) -> Recognised:
    """Finds the family of a file by its tensors' names.

    Args:
      path: for messages.
      tensors: by the file's names.
      configs: the JSON files beside it, by name.
      leave_out: patterns of the file's names that are to be passed over.

    Raises:
      InputError: no family knows these names, or nothing matches a pattern.
    """
    left_out = _left_out(path, tensors, leave_out)
    names = [name for name in tensors if name not in left_out]
    for title, family in FAMILIES.items():
        for prefix in family.prefixes:
            renamed = {name: canonical_name(name, prefix, family.renames) for name in names}
            if family.signature in renamed.values():
                found = Recognised(path, title, family, configs, left_out=left_out)
                _collect(found, renamed, tensors)
                return found
    some = ", ".join(sorted(names)[:3])
    known = ", ".join(FAMILIES)
    raise InputError(f"{path}: its tensors ({some}, ...) are of no known family: {known}")


def _left_out(path: str, names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    left_out = set()
    for pattern in name_patterns(patterns, "leave_out"):
        matches = {name for name in names if pattern.fullmatch(name)}
        if not matches:
            raise InputError(f"{path}: nothing to leave out is named {pattern.pattern!r}")
        left_out |= matches
    return sorted(left_out)


def canonical_name(name: str, prefix: str, renames: Renames) -> str:
    """A file's name for a tensor as the table has it."""
    name = name.removeprefix(prefix)
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _collect(
    found: Recognised, renamed: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> None:
    """Fills in the tensors under the table's names."""
    for name, canonical in renamed.items():
        if re.fullmatch(found.family.aside, canonical):
            found.aside[canonical.split(".")[-1]] = tensors[name]
            continue
        for part, array in found.family.unpack(canonical, tensors[name]):
            if part in found.tensors:
                raise InputError(
                    f"{found.path} holds {part} twice: {found.original[part]} and {name}"
                )
            found.tensors[part] = array
            found.original[part] = name

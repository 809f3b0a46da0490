"""Families of weight files: how a file is recognised and how its tensors are renamed."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.registry import Registry
from vit_jax.text import some
from vit_jax.trees import name_patterns
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe

# Words that stand for the indices of letters in names; see `layout`.
Words = Mapping[str, Sequence[str]]
QKV = {"t": ("query", "key", "value"), "u": ("key", "value"), "j": ("query", "value")}
Renames = Sequence[tuple[str, str]]


def _as_it_is(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [(name, array)]


def _whole(found: "Recognised") -> None:
    del found


def _nothing(tensors: dict[str, np.ndarray], original: dict[str, str]) -> None:
    del tensors, original


@dataclasses.dataclass(frozen=True)
class Family:
    """One way of naming tensors.

    Attributes:
      signature: names of tensors that every file of the family has, and no file of a family that
        comes later in FAMILIES.
      table: see `layout`.
      hints: returns fields of the model's configuration that do not follow from names and shapes;
        also `notes`, lines for the report, and `resample` where it is not that of the family.
      recipe: returns the preprocessing of images for evaluation.
      prefixes: prefixes that the names in a file may have.
      renames: (pattern, replacement) pairs that turn variants of a name into the table's name.
      aside: pattern of tensors that a classifier does not use, such as the mask token of
        self-supervised training; they are kept so that `write` can write them again.
      unused: pattern of tensors that only self-supervised training uses; they are left out.
      other: pattern of tensors of other networks in the file, such as a text tower or a decoder;
        they are not kept.
      unpack: (name, array) -> (name, array) of each layer whose values the tensor holds.
      regroup: (tensors, names in the file), both by name in the table, to change in place: joins
        tensors that are one in the table, and splits those that are several.
      complete: called at last with the file, to change in place: adds tensors that the JSON files
        hold, and takes constants out.
      words: words for the indices of letters that are counted in names.
      resample: method by which the family's program resizes position embeddings.
    """

    signature: str | tuple[str, ...]
    table: Table
    hints: Callable[["Recognised"], Mapping[str, Any]]
    recipe: Callable[["Recognised"], Recipe]
    prefixes: Sequence[str] = ("",)
    renames: Renames = ()
    aside: str = "(?!)"
    unused: str = "(?!)"
    other: str = "(?!)"
    unpack: Callable[[str, np.ndarray], list[tuple[str, np.ndarray]]] = _as_it_is
    regroup: Callable[[dict[str, np.ndarray], dict[str, str]], None] = _nothing
    complete: Callable[["Recognised"], None] = _whole
    words: Words = dataclasses.field(default_factory=lambda: QKV)
    resample: str = "bicubic_antialias"

    @property
    def signatures(self) -> tuple[str, ...]:
        """The names of `signature`."""
        return (self.signature,) if isinstance(self.signature, str) else self.signature


_ALIKE = 0.05  # share of a file's names that a family must have to be called the nearest

# What PyTorch's wrappers put into names: DistributedDataParallel, compile, FSDP, checkpointing.
_WRAPPERS = (
    r"^(module\.)+"
    r"|(?:(?<=^)|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.(module\.)*"
)

FAMILIES: Registry[Family] = Registry("family of weight files", "vit_jax.weights.formats")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A file's tensors under the names of its family's table.

    Attributes:
      path: path of the file, for messages.
      name: name of the family.
      family: the family.
      configs: contents of the JSON files beside it, by name.
      tensors: tensors by their names in the table.
      original: name in the table -> name in the file.
      aside: tensors that the model does not use, such as "mask_token".
      other: names, as in the file, of tensors of other networks.
      left_out: names, as in the file, of tensors that the caller asked to leave out.
      unused: names, as in the file, of tensors that only self-supervised training uses.
      constants: names, as in the file, of tensors that hold no weights, such as a causal mask.
    """

    path: str
    name: str
    family: Family
    configs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    original: dict[str, str] = dataclasses.field(default_factory=dict)
    aside: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    other: list[str] = dataclasses.field(default_factory=list)
    left_out: Sequence[str] = ()
    unused: list[str] = dataclasses.field(default_factory=list)
    constants: list[str] = dataclasses.field(default_factory=list)

    @property
    def config_json(self) -> Mapping[str, Any]:
        """The content of config.json; {} if there is none."""
        return self.configs.get("config.json", {})


def recognise(
    path: str,
    tensors: Mapping[str, np.ndarray],
    configs: Mapping[str, Any],
    leave_out: Sequence[str] = (),
) -> Recognised:
    """Finds the family of a file by the names of its tensors.

    Args:
      path: path of the file, for messages.
      tensors: tensors by their names in the file.
      configs: contents of the JSON files beside it, by name.
      leave_out: patterns of names, as in the file, of tensors to ignore.

    Raises:
      InputError: no family has these names, or nothing matches a pattern.
    """
    tensors = {name: array for name, array in tensors.items() if array.size}  # no registers
    left_out = _left_out(path, tensors, leave_out)
    names = [name for name in tensors if name not in left_out]
    for title, family in FAMILIES.items():
        for prefix in family.prefixes:
            renamed = {name: canonical_name(name, prefix, family.renames) for name in names}
            if set(family.signatures) <= set(renamed.values()):
                found = Recognised(path, title, family, configs, left_out=left_out)
                _collect(found, renamed, tensors)
                return found
    raise no_family(path, names)


def no_family(path: str, names: Sequence[str]) -> InputError:
    """The error for a file whose tensors have these names, which belong to no family."""
    return InputError(f"{path}: its tensors are of no known family; {_nearest(names)}")


def without_place(found: Recognised) -> list[str]:
    """The names, as in the file, of tensors for which the family's table has no place."""
    known = re.compile("|".join(_name_patterns(found.family)))
    return [name for own, name in found.original.items() if not known.fullmatch(own)]


def _nearest(names: Sequence[str]) -> str:
    """The family that has most of these names, and what does not fit it."""
    best: tuple[tuple[int, int], str, list[str]] = ((0, 0), "", [])
    for title, family in FAMILIES.items():
        known = re.compile("|".join([*_name_patterns(family), family.aside, family.other]))
        for prefix in family.prefixes:
            renamed = {name: canonical_name(name, prefix, family.renames) for name in names}
            strange = [name for name, own in renamed.items() if not known.fullmatch(own)]
            lacking = [name for name in family.signatures if name not in renamed.values()]
            rank = (len(names) - len(strange), -len(lacking))
            best = max(best, (rank, title, sorted(strange) or lacking), key=lambda each: each[0])
    (fitting, _), title, odd = best
    if fitting < _ALIKE * len(names):
        return f"they are {some(sorted(names), 3)}; known are {', '.join(FAMILIES)}"
    verb = "lacks" if fitting == len(names) else "has no place for"
    subject = "but the file" if verb == "lacks" else "which"
    return f"nearest is {title} with {fitting} of {len(names)}, {subject} {verb} {some(odd, 3)}"


def _name_patterns(family: Family) -> list[str]:
    """Patterns of the names in a family's table."""
    patterns = []
    for template, _ in family.table.values():
        *parts, end = re.split(r"\{(\w+)\}", template)
        pattern = ""
        for text, letter in zip(parts[::2], parts[1::2]):
            words = "|".join(family.words.get(letter, ()))
            pattern += re.escape(text) + (f"(?:{words})" if words else r"\d+")
        patterns.append(pattern + re.escape(end))
    return patterns


def _left_out(path: str, names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    left_out = set()
    for pattern in name_patterns(patterns, "leave_out"):
        matches = {name for name in names if pattern.fullmatch(name)}
        if not matches:
            raise InputError(f"{path}: nothing to leave out is named {pattern.pattern!r}")
        left_out |= matches
    return sorted(left_out)


def canonical_name(name: str, prefix: str, renames: Renames) -> str:
    """The table's name of a tensor of a file."""
    name = re.sub(_WRAPPERS, "", name).removeprefix(prefix)
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _collect(
    found: Recognised, renamed: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> None:
    """Fills `found` with the tensors under the table's names."""
    for name, canonical in renamed.items():
        if re.fullmatch(found.family.other, canonical):
            found.other.append(name)
            continue
        if re.fullmatch(found.family.aside, canonical):
            own = canonical.removeprefix("embeddings.").removeprefix("aside/")
            found.aside[own] = tensors[name]
            continue
        if re.fullmatch(found.family.unused, canonical):
            found.unused.append(name)
            continue
        for part, array in found.family.unpack(canonical, tensors[name]):
            if part in found.tensors:
                raise InputError(
                    f"{found.path} holds {part} twice: {found.original[part]} and {name}; name one "
                    "of them in leave_out"
                )
            found.tensors[part] = array
            found.original[part] = name
    found.family.regroup(found.tensors, found.original)
    found.family.complete(found)

"""Options: the type, default, meaning, range and effect of each, declared in one place.

A section of a run's configuration is a frozen dataclass with fields made by `option`:

    @dataclasses.dataclass(frozen=True)
    class MixupOptions:
        alpha: float = option(0.0, "ratio from Beta(alpha, alpha); 0: off", at_least=0)

`section` turns such a class into the `ConfigDict` that config files change. `check_section`
refuses values out of range. An option's `effect`, one of `EFFECTS`, says what it changes.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vit_jax.errors import InputError, unknown
from vit_jax.spec import MEANT
from vit_jax.text import shown

# What an option changes. A resumed run may change options with an effect in FREE_EFFECTS.
EFFECTS = {
    "structure": "which parameters a model has. In a config file None leaves it to the weights "
    "of init_from, the model's name, or the default",
    "network": "what the same parameters compute; None as above",
    "fitted": "what weights are fitted to: image size, classes; None: as the data say",
    "training": "what training computes; weights are used without it",
    "computation": "what a run computes",
    "course": "how long a run is, what it reports and what it keeps",
    "layout": "how arrays lie on devices",
    "place": "where files are",
    "speed": "only the speed or the memory needed",
}
FREE_EFFECTS = ("course", "layout", "place", "speed")
# Options of a model that are stored with its weights, including fields not made by `option`.
STORED_EFFECTS = ("structure", "network", "fitted", "computation")
_LEFT_OPEN = ("structure", "network", "fitted")  # None in config files
MAX_INTEGER = 2**63 - 1
# What a value of an option of each type is an instance of.
_KINDS: dict[type, tuple[type, ...]] = {
    int: (numbers.Real,),
    float: (numbers.Real,),
    bool: (bool, np.bool_),
    str: (str,),
}


@dataclasses.dataclass(frozen=True)
class Declaration:
    """The declaration of an option, besides its type and default; see `option`."""

    meaning: str
    effect: str
    at_least: float
    above: float
    below: float
    choices: Callable[[], Collection[str]] | None

    def problem(self, value: Any, *, whole: bool) -> str:
        """Why a number is refused; "" if it is accepted. `whole`: only integers are accepted."""
        if value is None or isinstance(value, bool):
            return ""
        if whole and not isinstance(value, numbers.Integral):
            return self._must_be("a whole number")
        if not isinstance(value, numbers.Real):
            return ""
        too_large = isinstance(value, numbers.Integral) and abs(int(value)) > MAX_INTEGER
        if too_large or not math.isfinite(value):
            return "it must be a finite number"
        number = float(value)
        if not (self.at_least <= number < self.below and number > self.above):
            return self._must_be("")
        return ""

    @property
    def range(self) -> str:
        """The allowed values in words, such as "at least 0 and below 1"; "" if all are."""
        if self.choices is not None:
            return " | ".join(sorted(map(str, self.choices())))
        limits = [
            (math.isfinite(self.at_least), f"at least {self.at_least:g}"),
            (math.isfinite(self.above), f"above {self.above:g}"),
            (math.isfinite(self.below), f"below {self.below:g}"),
        ]
        return " and ".join(text for stated, text in limits if stated)

    def _must_be(self, kind: str) -> str:
        return "it must be " + ", ".join(part for part in (kind, self.range) if part)


def option(
    default: Any = dataclasses.MISSING,
    meaning: str = "",
    *,
    effect: str = "computation",
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    choices: Callable[[], Collection[str]] | Collection[str] | None = None,
) -> Any:
    """Declares a field of a section.

    Args:
      default: default value; without one, a value must be given.
      meaning: meaning in a few words, with the unit.
      effect: one of `EFFECTS`.
      at_least, above, below: range of a number.
      choices: allowed names, or a function that lists them.
    """
    if effect not in EFFECTS:
        raise unknown("effect of an option", effect, EFFECTS)
    names = choices if choices is None or callable(choices) else _always(choices)
    declaration = Declaration(meaning, effect, at_least, above, below, names)
    return dataclasses.field(default=default, metadata={"option": declaration})


def _always(names: Collection[str]) -> Callable[[], Collection[str]]:
    return lambda: names


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training in one of three units; the others stay None."""

    steps: int | None = option(None, "number of optimizer steps", effect="course")
    epochs: float | None = option(None, "number of passes over the training data", effect="course")
    examples: int | None = option(None, "number of training examples", effect="course")


def declarations(kind: type) -> dict[str, Declaration]:
    """Name -> declaration of a section's options."""
    return {
        field.name: field.metadata["option"]
        for field in dataclasses.fields(kind)
        if "option" in field.metadata
    }


@dataclasses.dataclass(frozen=True)
class Described:
    """The description of an option, for display.

    Attributes:
      name: full name, such as "optimizer.learning_rate".
      type: type as written in Python.
      default: default value; None also if a value must be given.
      meaning: meaning in a few words, with the unit.
      effect: one of `EFFECTS`.
      range: allowed values in words; "" if the type alone limits them.
    """

    name: str
    type: str
    default: Any
    meaning: str
    effect: str
    range: str = ""


def described(kind: type, prefix: str) -> Iterator[Described]:
    """Describes the options of a section and of its subsections, with `prefix` before names."""
    hints = typing.get_type_hints(kind)
    for name, found in declarations(kind).items():
        hint, default = hints[name], defaults(kind).get(name)
        if dataclasses.is_dataclass(hint):
            for inner in described(typing.cast(type, hint), f"{prefix}{name}."):
                own = getattr(default, inner.name.rpartition(".")[2])
                meaning = f"{found.meaning}: {inner.meaning}" if found.meaning else inner.meaning
                yield dataclasses.replace(inner, default=own, meaning=meaning)
        else:
            text = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            yield Described(
                f"{prefix}{name}", text, default, found.meaning, found.effect, found.range
            )


def names_with(kind: type, *effects: str) -> tuple[str, ...]:
    """The names of a section's options that have one of the effects.

    A field that is not declared by `option` has the effect "computation".
    """
    declared = declarations(kind)
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if (declared[field.name].effect if field.name in declared else "computation") in effects
    )


def defaults(kind: type) -> dict[str, Any]:
    """Name -> default of a section's options that have one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }


def section(*kinds: type) -> ConfigDict:
    """A section for config files: all options of the classes, with their defaults.

    Options that weights or data may decide, and those without default, are None.
    """
    result = ConfigDict()
    for kind in kinds:
        types_by_name = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if "option" not in field.metadata or field.name in result:
                continue
            value = field.default
            effect = field.metadata["option"].effect
            if effect in _LEFT_OPEN or value is dataclasses.MISSING:
                value = None
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = _filled(value)
            if value is None:
                value = placeholder(_single_type(types_by_name[field.name]))
            result[field.name] = value
    return result


def fill(values: ConfigDict, kind: type, stored: Any, where: str) -> None:
    """Takes the values of an earlier config; options that it lacks, or has no more, stay.

    Args:
      values: result of `section(kind)`; it is changed.
      kind: the section's class.
      stored: the section in the earlier config, from JSON.
      where: name of the section in messages.

    Raises:
      InputError: a value has another type, or is out of range.
    """
    if not isinstance(stored, Mapping):
        raise InputError(f"{where} is {shown(stored)}, not a section")
    for name, value in stored.items():
        if name not in values:
            continue
        if isinstance(values[name], ConfigDict):  # a duration
            fill(values[name], type(defaults(kind)[name]), value, f"{where}.{name}")
        else:
            try:
                values[name] = value
            except (TypeError, ValueError) as error:
                kind_name = getattr(values.get_type(name), "__name__", "its type")
                raise InputError(
                    f"{where}.{name} is {shown(value)}, not of type {kind_name}"
                ) from error
    check_section(kind, values, where)


def _filled(value: Any) -> ConfigDict:
    """A section with the values of an instance."""
    result = section(type(value))
    for name in result:
        if getattr(value, name) is not None:
            result[name] = getattr(value, name)
    return result


def _single_type(hint: Any) -> type:
    """The type that a placeholder enforces: `object` if there are several."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else object
    return hint if hint in (int, float, str, bool) else object


def check_section(kind: type, values: Any, where: str) -> None:
    """Refuses values that are out of range, or names that do not exist.

    Args:
      kind: the section's class.
      values: an instance of it, or a ConfigDict with its options.
      where: name of the section in messages, such as "config.optimizer".

    Raises:
      InputError: names the option and its allowed values.
    """
    hints = typing.get_type_hints(kind)
    for name, declared in declarations(kind).items():
        value = getattr(values, name)
        if isinstance(value, ConfigDict):
            check_section(type(defaults(kind)[name]), value, f"{where}.{name}")
        if value is None and not _may_be_none(hints[name], declared):
            raise InputError(f"{where}.{name} is None; it must have a value")
        single = _single_type(hints[name])
        if problem := declared.problem(value, whole=single is int):
            raise InputError(f"{where}.{name} is {value!r}; {problem}")
        kind_of = _KINDS.get(single, (object,))
        if value is not None and not isinstance(value, (*kind_of, ConfigDict)):
            raise InputError(f"{where}.{name} is {shown(value)}; it must be {MEANT[single]}")
        if declared.choices is not None and isinstance(value, str):
            names = declared.choices()
            # A name may have arguments in parentheses; the registered function checks them.
            if value.partition("(")[0] not in names:
                raise unknown(f"{where}.{name}", value, names)


def _may_be_none(hint: Any, declared: Declaration) -> bool:
    return declared.effect in _LEFT_OPEN or type(None) in typing.get_args(hint)


def flatten(tree: Mapping[str, Any] | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full name, value) of all options in nested sections."""
    for name, value in tree.items():
        if isinstance(value, (Mapping, ConfigDict)) and len(value):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

"""Durations of training: in optimizer steps, epochs or examples."""

import math
from collections.abc import Collection

from ml_collections import ConfigDict

from vit_jax.errors import InputError, unknown
from vit_jax.options import Duration, section


def duration(**unit: float) -> ConfigDict:
    """A duration in one of three units: `duration(epochs=90)`.

    Raises:
      InputError: an unknown unit.
    """
    fields = section(Duration)
    for name, value in unit.items():
        if name not in fields:
            raise unknown("unit of a duration", name, fields.keys())
        fields[name] = float(value) if name == "epochs" else value
    return fields


def is_duration(entry: object) -> bool:
    """Whether a section of a config is a duration."""
    return isinstance(entry, ConfigDict) and set(entry) == set(section(Duration))


def replace_unit(entry: ConfigDict, unit: str, keep: Collection[str] = ()) -> list[str]:
    """Clears the other units of a duration, where `unit` is set; returns them as "epochs=4.0".

    Args:
      entry: result of `duration`; it is changed.
      unit: unit that stays.
      keep: further units that stay.
    """
    replaced = []
    for other, value in entry.items():
        if entry[unit] is not None and value is not None and other not in (unit, *keep):
            replaced.append(f"{other}={value}")
            entry[other] = None
    return replaced


def in_steps(entry: ConfigDict, *, name: str, batch_size: int, train_size: int) -> int | None:
    """A duration in optimizer steps, or None where no unit is set.

    Args:
      entry: result of `duration`.
      name: name of the option in messages.
      batch_size: examples per step.
      train_size: examples per epoch.

    Raises:
      InputError: more than one unit is set, or the value is negative.
    """
    set_units = {unit: value for unit, value in entry.items() if value is not None}
    if not set_units:
        return None
    if len(set_units) > 1:
        raise InputError(
            f"config.{name} sets {' and '.join(set_units)}; set one and leave the others None"
        )
    ((unit, value),) = set_units.items()
    if value < 0:
        raise InputError(f"config.{name}.{unit} is {value}; it must not be negative")
    examples_per_unit = dict(steps=batch_size, epochs=train_size, examples=1)[unit]
    if unit == "steps":
        return int(value)
    return math.ceil(round(value * examples_per_unit / batch_size, 6))


def due(step: int, every: int | None) -> bool:
    """Whether something that happens every `every` steps is due after this step."""
    return every is not None and every > 0 and step % every == 0

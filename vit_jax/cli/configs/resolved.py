"""Configs as a run would take them: each option's value, and what set it."""

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vit_jax import schema
from vit_jax.checkpoint.load import read_start, stored_model
from vit_jax.checkpoint.stored import latest_checkpoint, steps_in
from vit_jax.cli.configs.origins import writes_of
from vit_jax.config import default
from vit_jax.config_files import (
    PREFIX,
    find_config,
    load_config,
    stored_config,
    unknown_option,
)
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.models.config import ModelConfig
from vit_jax.models.variants import identify, model_config
from vit_jax.options import Described, flatten
from vit_jax.text import first_line, shown
from vit_jax.train.config import DEFAULT_MODEL, every_option
from vit_jax.train.start import Start, lacks_preprocessing, preprocessing_of_weights
from vit_jax.weights.files.paths import is_shipped

log = logging.getLogger(__name__)

ORIGINS = ("default", "file", "argument", "override", "weights", "name")
_FROM_DATA = ("model.image_size", "model.num_classes", "model.naflex")


@dataclasses.dataclass(frozen=True)
class Resolved:
    """An option of a config.

    Attributes:
      name: full name.
      value: its value in the run.
      origin: what set it: "default", "file", "argument" (the file, because of its argument),
        "override", "weights" (those of init_from) or "name" (the model's).
      where: the file and line, the override or the weights; "" for a default.
      default: default value.
      type, range, meaning, effect: see `options.Described`; "" for an option of no section.
    """

    name: str
    value: Any
    origin: str
    where: str
    default: Any
    type: str
    range: str
    meaning: str
    effect: str


def is_config(text: str) -> bool:
    """Whether a word names a config file (x.py or x.py:arg), a workdir or its config.json."""
    path = text.partition(":")[0]
    return path.endswith((".py", ".json")) or os.sep in path or expand(path).is_dir()


def resolve(spec: str, overrides: Sequence[str] = ()) -> list[Resolved]:
    """All options of a config file or workdir, section by section.

    Args:
      spec: config file with its argument, workdir, or config.json.
      overrides: "--config.a.b=VALUE"; only for a config file.

    Raises:
      InputError: the file cannot be read or fails, or an override is wrong.
    """
    if stored := _stored_file(spec):
        if overrides:
            raise InputError(f"{overrides[0]}: {spec} holds a run, which is as it is")
        config, values = None, stored_values(stored)
        origins = {name: ("file", str(stored)) for name in values}
    else:
        config, values, origins = _from_file(spec, overrides)
    origins |= _decided_elsewhere(values, config, stored)
    known = {one.name: one for one in every_option()}
    start = _flat(default().to_dict())
    return [
        _resolved(
            name, value, origins.get(name, ("default", "")), start, _found(name, values, known)
        )
        for name, value in values.items()
    ]


def differences(first: str, second: str) -> dict[str, tuple[Any, Any]]:
    """The options that differ between two configs or workdirs: name -> both values.

    An option that only one of them has, as of an evaluation, is `ABSENT` in the other. Options
    that weights decide which are not on this machine are not compared.

    Raises:
      InputError: one of them cannot be read.
    """
    (one, one_open), (other, other_open) = (_values(spec) for spec in (first, second))
    names = [*one, *(name for name in other if name not in one)]
    pairs = {name: (one.get(name, ABSENT), other.get(name, ABSENT)) for name in names}
    return {
        name: pair
        for name, pair in pairs.items()
        if pair[0] != pair[1] and name not in one_open | other_open
    }


ABSENT = object()


def stored_values(file: Path) -> dict[str, Any]:
    """Full name -> value in a run's config.json; what it lacks has its default.

    Options that do not exist, as those of another version, are named in a warning.

    Raises:
      InputError: it cannot be read, or an option has a wrong type.
    """
    stored = schema.read(file, dict)
    _check_types(stored, default(), file)
    values, usual = _flat(stored), _flat(default().to_dict())
    for name in values:
        if name not in usual and not name.startswith("evals."):
            log.warning("%s: %s; a run would refuse it", file, unknown_option(name))
    return usual | values


def _check_types(stored: dict[str, Any], usual: ConfigDict, file: Path, prefix: str = "") -> None:
    """Refuses values that no run can have written; options that there are no more are skipped."""
    for name, value in stored.items():
        if name not in usual:
            continue
        section = usual[name]
        if isinstance(section, ConfigDict) and isinstance(value, dict):
            if prefix or name != "evals":  # whose entries are anyone's
                _check_types(value, section, file, f"{prefix}{name}.")
            continue
        try:
            if isinstance(section, ConfigDict):
                raise TypeError("not a section")
            usual[name] = value
        except (TypeError, ValueError):
            wanted = "a section" if isinstance(section, ConfigDict) else usual.get_type(name)
            kind = wanted if isinstance(wanted, str) else f"of type {wanted.__name__}"
            raise InputError(
                f"{file} is damaged ({prefix}{name} is {shown(value)}, not {kind}); restore or "
                "delete it"
            ) from None


def _values(spec: str) -> tuple[dict[str, Any], set[str]]:
    """Full name -> value, with what the model's name or weights decide; names left open."""
    stored = _stored_file(spec)
    config = None if stored else load_config(spec)
    values = stored_values(stored) if stored else _flat(config.to_dict()) if config else {}
    decided = _decided_elsewhere(values, config, stored)
    if decided or not values["init_from"]:
        return values, set()
    return values, {name for name, v in values.items() if name.startswith("model.") and v is None}


def _stored_file(spec: str) -> Path | None:
    """The config.json of a workdir, None for a config file.

    Raises:
      InputError: there is neither.
    """
    path = expand(spec)
    if path.suffix == ".json":
        return path
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{spec} holds no config.json; give a workdir or a config file x.py")
        return path / "config.json"
    if not spec.partition(":")[0].endswith(".py"):
        raise InputError(f"{spec} is neither a config file x.py nor a workdir")
    return None


def _from_file(
    spec: str, overrides: Sequence[str]
) -> tuple[ConfigDict, dict[str, Any], dict[str, tuple[str, str]]]:
    path, _, arg = spec.partition(":")
    with writes_of(find_config(path)) as writes:
        config = load_config(spec, overrides)
    lines = writes.by_name(config)
    values = _flat(config.to_dict())
    without = _without_argument(path) if arg else values
    words = {word.removeprefix(PREFIX).partition("=")[0]: word for word in overrides}
    origins = {}
    for name, line in lines.items():
        if name in words:
            origins[name] = ("override", words[name])
        elif line is None:  # another unit of the same duration
            unit = next((word for word in words if _section(word) == _section(name)), "")
            origins[name] = ("override", words.get(unit, ""))
        else:
            by_file = name in without and without[name] == values[name]
            origins[name] = ("file" if by_file else "argument", f"{path}:{line}")
    return config, values, origins


def _without_argument(path: str) -> dict[str, Any]:
    """The values that a file gives without an argument; the defaults if it needs one."""
    level = logging.getLogger("vit_jax").level
    logging.getLogger("vit_jax").setLevel(logging.ERROR)
    try:
        config = load_config(path)
    except InputError:
        config = default()
    finally:
        logging.getLogger("vit_jax").setLevel(level)
    return _flat(config.to_dict())


def _decided_elsewhere(
    values: dict[str, Any], config: ConfigDict | None, stored: Path | None
) -> dict[str, tuple[str, str]]:
    """Fills in options that the model's name or weights decide; returns their origins."""
    if not values["init_from"]:
        origin = ("name", values["model.name"] or DEFAULT_MODEL)
        found = _fill_model(values, _named_model(values), origin)
        return {name: origin for name, origin in found.items() if name != "model.name"}
    try:
        if stored is not None and steps_in(stored.parent / "checkpoints"):
            model = stored_model(latest_checkpoint(stored.parent))
            return _fill_model(values, model, ("weights", str(stored.parent)))
        if config is None and stored is not None:  # a copy, outside of its workdir
            config = stored_config(stored)
        if config is not None and _is_here(config.init_from):
            return _of_weights(values, config)
        why = "is not on this machine"
    except InputError as error:
        why = first_line(error)
    place = values["init_from"]
    log.info("init_from %s: %s; options that it decides are shown as None", place, why)
    return {}


def _is_here(path: str) -> bool:
    return expand(path).exists() or is_shipped(path)


def _of_weights(values: dict[str, Any], config: ConfigDict) -> dict[str, tuple[str, str]]:
    """Fills in what the weights of `init_from` decide: the model, perhaps the preprocessing."""
    origin = ("weights", config.init_from)
    told = {name: value for name, value in config.model.items() if value is not None}
    start = Start(*read_start(config.init_from, told, use_ema=config.init_ema))
    origins = _fill_model(values, start.model, origin)
    if lacks_preprocessing(config):
        training, usual = preprocessing_of_weights(config, start)
        values["data.pp"] = training
        empty = [f"evals.{name}.pp" for name, entry in config.evals.items() if not entry.pp]
        values.update(dict.fromkeys(empty, usual))
        origins |= dict.fromkeys(["data.pp", *empty], origin)
    return origins


def _fill_model(
    values: dict[str, Any], model: ModelConfig, origin: tuple[str, str]
) -> dict[str, tuple[str, str]]:
    own = _plain(dataclasses.asdict(model)) | {"name": identify(model)[0]}
    origins = {}
    for name, value in values.items():
        found = own.get(name.removeprefix("model."))
        if name.startswith("model.") and value is None and name not in _FROM_DATA:
            values[name] = found
            if found is not None:
                origins[name] = origin
    return origins


def _named_model(values: dict[str, Any]) -> ModelConfig:
    told = {
        name.removeprefix("model."): value
        for name, value in values.items()
        if name.startswith("model.") and value is not None
    }
    name = told.pop("name", DEFAULT_MODEL)
    try:
        return model_config(name, **{"num_classes": 1, **told})
    except InputError:  # as where the image size, which the data decide, must fit
        return model_config(name)


def _found(name: str, values: dict[str, Any], known: dict[str, Described]) -> Described | None:
    if not name.startswith("evals."):
        return known.get(name)
    _, evaluation, option = name.split(".", 2)
    kind = values.get(f"evals.{evaluation}.type", "classification")
    if option == "type":
        meaning = "type of evaluation; `vit_jax config evals` lists them and their options"
        return Described(name, "str", "classification", meaning, "course")
    return known.get(f"evals.NAME[{kind}].{option}")


def _resolved(
    name: str,
    value: Any,
    origin: tuple[str, str],
    start: dict[str, Any],
    found: Described | None,
) -> Resolved:
    usual = start.get(name, _plain(found.default) if found else None)
    if name.startswith("model.") and usual is None and found:
        usual = _plain(found.default)
    implicit = origin[0] == "name" or origin[1].endswith(".json")
    if implicit and value in (usual, None):
        origin = ("default", "")
    return Resolved(
        name=name,
        value=value,
        origin=origin[0],
        where=origin[1],
        default=usual,
        type=found.type if found else "",
        range=found.range if found else "",
        meaning=found.meaning if found else "",
        effect=found.effect if found else "",
    )


def _section(name: str) -> str:
    return name.rpartition(".")[0]


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Full name -> value of the options of a whole config; sections without any are left out."""
    return {name: value for name, value in flatten(_plain(tree)) if value != {}}


def _plain(value: Any) -> Any:
    """A value as JSON keeps it: lists in place of tuples."""
    return json.loads(json.dumps(value, default=str))

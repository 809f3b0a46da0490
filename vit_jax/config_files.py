"""Config files with an argument, `FILE[:ARG]`, and overrides, `--config.a.b=VALUE`."""

import ast
import difflib
import importlib.util
import logging
import os
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from vit_jax import schema
from vit_jax.config import check, default, evaluation
from vit_jax.durations import is_duration, replace_unit
from vit_jax.errors import InputError, nearest, suggestion
from vit_jax.files import expand
from vit_jax.options import flatten
from vit_jax.schema import check_given
from vit_jax.text import some
from vit_jax.train.config import USUAL_NAMES, every_name, every_option, unknown_names

log = logging.getLogger(__name__)

PREFIX = "--config."
_PACKAGE = Path(__file__).parent
# The configs of the project: inside an installed package, beside the package in a checkout.
SHIPPED = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    _PACKAGE / "configs",
)


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file, with overrides applied.

    Args:
      spec: "configs/x.py" or "configs/x.py:arg"; the text after the colon is passed
        to the file's `get_config`. "workdirs/run/config.json" is the config of an earlier run. A
        path that begins with configs/ and does not exist here is
        looked up in the project's own configs.
      overrides: "--config.a.b=VALUE"; values are Python literals or plain strings. A unit of a
        duration (steps, epochs, examples) replaces the unit that the file set.

    Raises:
      InputError: the file is missing or fails, an option does not exist, or a value has
        the wrong type or is out of range.

    Example:
        >>> config = vit_jax.load_config("configs/quickstart.py:pretrain", ["--config.seed=1"])
        >>> config.model.name, config.seed
        ('ViT-Ti/4', 1)
    """
    check_given(spec, "spec", str)
    if isinstance(overrides, str):
        raise InputError(f"overrides is {overrides!r}; give a list of texts")
    path, _, arg = spec.partition(":")
    if path.endswith(".json") and not arg:
        config = stored_config(expand(path))
    else:
        get_config = _get_config(expand(path))
        config = get_config(arg) if arg else get_config()
    apply_overrides(config, overrides)
    _check_complete(config, path)
    check(config)
    return config


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Sets options on a config, one for each "--config.a.b=VALUE"; see `load_config`."""
    names: list[str] = []
    for override in overrides:
        name, equals, text = override.removeprefix(PREFIX).partition("=")
        if not equals:
            raise InputError(f"{override}: write {override}=VALUE")
        set_option(config, name, text)
        _replace_unit(config, name, override, names)
        names.append(name)


def stored_config(path: Path) -> ConfigDict:
    """The config of an earlier run, from the config.json of its workdir.

    Options that did not exist then have their defaults.

    Raises:
      InputError: the file is missing or damaged, or has an option that does not exist any more.
    """
    stored = schema.read(path, dict)
    config = default()
    evals = stored.pop("evals", {})
    if not isinstance(evals, dict) or not all(isinstance(each, dict) for each in evals.values()):
        raise InputError(f"{path} is damaged (evals is no section of sections); restore it")
    with config.unlocked():
        for name, entry in evals.items():
            config.evals[name] = evaluation(**entry)
    for name, value in flatten(stored):
        *parents, last = name.split(".")
        section = config
        for part in parents:
            section = section[part] if isinstance(section, ConfigDict) and part in section else None
        if not isinstance(section, ConfigDict) or last not in section:
            raise InputError(f"{path}: {unknown_option(name)}; correct or remove it there")
        try:
            section[last] = value
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: {name} is {value!r}, which has a wrong type") from error
    return config


def import_file(path: str | Path) -> ModuleType:
    """Runs a Python file; entries that it registers can be used by name from then on.

    Raises:
      InputError: it does not exist, or fails.
    """
    path = _existing(expand(path))
    if not path.is_file():
        known = sorted(
            {f"configs/{f.name}" for d in (Path("configs"), SHIPPED) for f in d.glob("*.py")}
        )
        stems = {Path(name).stem: name for name in known}  # all paths begin alike
        meant = difflib.get_close_matches(path.stem, stems, n=1)
        listed = f"; known: {', '.join(known) or 'none here'}"
        hint = suggestion(stems[meant[0]]) if meant else listed
        raise InputError(f"config file {path} does not exist{hint}")
    # The same name whenever a file is read, so that its entries replace those from before.
    name = f"config_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"config file {path} is no Python file; its name must end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"config file {path} fails: {type(error).__name__}: {error}") from error
    return module


def find_config(path: str | Path) -> Path:
    """The file that a path stands for: its own, or the project's own file of that name."""
    return _existing(expand(path))


def _existing(path: Path) -> Path:
    """The path itself, or for a missing configs/x.py the project's own file of that name."""
    if path.parts[:1] == ("configs",) and not path.exists():
        own = SHIPPED.joinpath(*path.parts[1:])
        return own if own.is_file() else path
    return path


def _get_config(path: Path) -> Callable[..., ConfigDict]:
    """The function `get_config` of a file, with its errors in one line."""
    module = import_file(path)
    if not hasattr(module, "get_config"):
        raise InputError(f"config file {path} has no function get_config")

    def get_config(*args: str) -> ConfigDict:
        try:
            config = module.get_config(*args)
        except InputError:
            raise
        except Exception as error:  # of the user's own code
            raise InputError(_explained(path, error)) from error
        if isinstance(config, ConfigDict):
            return config
        kind = "nothing" if config is None else f"a {type(config).__name__}"
        raise InputError(
            f"config file {path}: get_config returns {kind}; make a config with "
            "vit_jax.config.default(), and end with `return config`"
        )

    return get_config


def _explained(path: Path, error: Exception) -> str:
    """One line for an error of a config file: where it is, and the option that was meant."""
    calls = traceback.extract_tb(error.__traceback__)
    file = os.path.abspath(_existing(path))
    own = [call for call in calls if os.path.abspath(call.filename) == file]
    where = f"config file {path}, line {own[-1].lineno}" if own else f"config file {path}"
    text = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").split())
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    library = bool(calls) and "ml_collections" in calls[-1].filename
    if not library or isinstance(error, TypeError):
        kind = "" if library else f"{type(error).__name__}: "
        return f"{where}: {kind}{text[:300]}"
    field = re.search(
        r"""Key "(\w+)" does not exist|^["'\\]*(\w+)["'\\]*(?: ?Did you mean|$)""", text
    )
    if field is None:
        return f"{where}: {text[:300]}"
    name = field[1] or field[2]
    # The line's code has the sections: `c.optimizer.lr = 3`.
    code = re.search(rf"\b\w+\.((?:\w+\.)*{name})\b", own[-1].line or "") if own else None
    name = code[1] if code else name
    return f"{where}: {unknown_option(name)}"


def _check_complete(config: ConfigDict, path: str) -> None:
    """Refuses a config without an option, as where a file replaces a section, or with others."""
    missing = set(every_name(default())) - set(every_name(config))
    if missing:
        raise InputError(
            f"config file {path}: {some(sorted(missing))} missing; change options of "
            "vit_jax.config.default(), do not replace sections"
        )
    for name in unknown_names(config):
        raise InputError(f"config file {path}{_line_with(path, name)}: {unknown_option(name)}")


def _line_with(path: str, name: str) -> str:
    """ ", line K" for the first line of a config file that has an option, or its last part."""
    lines = _existing(expand(path)).read_text(errors="replace").splitlines()
    for words in (name, name.rpartition(".")[2]):
        pattern = re.compile(rf"\b{re.escape(words)}\b")
        for number, line in enumerate(lines, 1):
            if pattern.search(line):
                return f", line {number}"
    return ""


def unknown_option(name: str) -> str:
    """What a message says of an option in a file that does not exist."""
    meant = meant_option(default(), name)
    hint = suggestion(meant) if meant else nearest(name, default())
    return f"unknown option {name!r}{hint or '; `vit_jax config` lists all'}"


def set_option(config: ConfigDict, name: str, text: str) -> None:
    """Sets `name`, such as "optimizer.learning_rate", to the value that `text` spells.

    Raises:
      InputError: no such option, or a value of another type.
    """
    *parents, last = name.split(".")
    section = config
    for part in parents:
        section = section[part] if isinstance(section, ConfigDict) and part in section else None
    if not isinstance(section, ConfigDict) or last not in section:
        raise _no_option(config, name)
    if isinstance(section[last], ConfigDict):
        example = next(iter(every_name(section[last])), "OPTION")
        raise InputError(f"--config.{name} is a section; set an option, as {name}.{example}")
    value = _literal(text)
    kind = section.get_type(last)
    if kind is str:
        value = None if text == "None" else text
    elif kind in (int, float) and isinstance(value, bool):
        raise InputError(f"--config.{name}={text}: give a value of type {kind.__name__}")
    elif kind is tuple and not isinstance(value, tuple):
        value = tuple(value) if isinstance(value, list) else (value,)
    elif kind is bool and not isinstance(value, bool):
        raise InputError(f"--config.{name}={text}: give True or False")
    try:
        section[last] = value
    except TypeError as error:
        kind_name = getattr(kind, "__name__", kind)
        raise InputError(f"--config.{name}={text}: give a value of type {kind_name}") from error


def _replace_unit(config: ConfigDict, name: str, override: str, before: Sequence[str]) -> None:
    """If an override sets a unit of a duration, clears the units that the config file set.

    Units of earlier overrides stay: two of them contradict each other, which is refused later.
    """
    *parents, unit = name.split(".")
    section = config
    for part in parents:
        section = section[part]
    if is_duration(section):
        own = ".".join(parents)
        given = [other for other in section if f"{own}.{other}" in before]
        for replaced in replace_unit(section, unit, given):
            log.info("%s replaces %s.%s of the config file", override, own, replaced)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _no_option(config: ConfigDict, name: str) -> InputError:
    meant = meant_option(config, name)
    if meant is None:
        return InputError(f"unknown option --config.{name}; `vit_jax config` lists all")
    return InputError(f"unknown option --config.{name}{suggestion(f'--config.{meant}')}")


def meant_option(config: ConfigDict, name: str) -> str | None:
    """The full name of the option that a wrong name probably means; None where none is near.

    It recognises the last part of a name ("learning_rate"), its initials ("lr") or beginning
    ("ema"), the name of a section, misspelled names, names that other programs use
    (`train.config.USUAL_NAMES`), and words of an option's meaning.
    """
    options = every_name(config)
    *parents, last = name.lower().replace("-", "_").split(".")
    ends = {option: option.rpartition(".")[2] for option in options}
    close = difflib.get_close_matches(last, set(ends.values()), n=1, cutoff=0.8)
    spelled = difflib.get_close_matches(name, options, n=1, cutoff=0.88)
    usual = USUAL_NAMES.get(last, "")
    rules: tuple[Callable[[str], bool], ...] = (
        lambda option: option in spelled,
        lambda option: ends[option] == last and option.split(".")[:-1] == parents,
        lambda option: option in (".".join([*parents, usual.rpartition(".")[2]]), usual),
        lambda option: option.endswith("." + last.replace("_", ".")),
        lambda option: ends[option] == last,
        lambda option: _initials(ends[option]) == last,
        lambda option: last in option.split(".")[:-1],
        lambda option: ends[option] in close,
        lambda option: ends[option] == f"{last}_size",
        lambda option: ends[option].startswith(f"{last}_"),
        lambda option: option in _described_by(last),
    )
    for rule in rules:
        found = [option for option in options if rule(option)]
        if found:
            # Preferred: the named section, then fewer levels, then `total`.
            return min(
                found,
                key=lambda option: (
                    option.split(".")[:-1] != parents,
                    option.count("."),
                    not option.startswith("total."),
                    options.index(option),
                ),
            )
    return None


def _described_by(name: str) -> set[str]:
    """The options whose meaning holds all words of a name, such as gradient_noise."""
    words = [word for word in name.split("_") if len(word) > 2]
    if not words:
        return set()
    patterns = [re.compile(rf"\b{re.escape(word)}", re.IGNORECASE) for word in words]
    return {
        one.name
        for one in every_option()
        if all(pattern.search(one.meaning) for pattern in patterns)
    }


def _initials(name: str) -> str:
    parts = name.split("_")
    return "".join(part[:1] for part in parts) if len(parts) > 1 else ""

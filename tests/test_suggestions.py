"""Every message that suggests a name suggests one that exists, and that is then accepted."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import vit_jax
from vit_jax.cli.main import COMMANDS, main
from vit_jax.config import default
from vit_jax.config_files import set_option
from vit_jax.errors import InputError
from vit_jax.evaluate.frozen import vtab
from vit_jax.models.variants import canonical_name, list_models
from vit_jax.options import check_section, declarations
from vit_jax.registry import Registry
from vit_jax.train.config import SECTIONS, RunOptions, every_name

PACKAGE = Path(vit_jax.__path__[0])


def misspelled(name):
    """A name with one letter doubled, in the middle, which no other name has."""
    middle = len(name) // 2
    return name[:middle] + name[middle] + name[middle:]


def suggested(error):
    found = re.search(r"\(did you mean (['\"])(.*?)\1\?\)", str(error.value))
    return found[2] if found else None


def registries():
    for module in pkgutil.walk_packages(vit_jax.__path__, "vit_jax."):
        if module.name.rpartition(".")[2] == "__main__":
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Registry):
                yield value


def test_every_registry_suggests_its_own_names():
    found = {registry.kind: registry for registry in registries()}
    assert len(found) >= 18
    for registry in found.values():
        for name in registry:
            with pytest.raises(InputError) as error:
                registry[misspelled(name)]
            # Names of one or two letters are too short to resemble anything.
            assert suggested(error) in ([*registry] if len(name) > 2 else [*registry, None])
            assert "\n" not in str(error.value)


def test_every_option_suggests_an_option():
    names = every_name(default())
    assert len(names) > 150
    for name in names:
        with pytest.raises(InputError) as error:
            set_option(default(), misspelled(name), "1")
        prefix, _, option = suggested(error).partition(".")
        assert prefix == "--config" and option in names, error.value


def test_the_last_part_of_a_name_finds_it():
    config = default()
    for name in every_name(default()):
        with pytest.raises(InputError) as error:
            set_option(config, f"nowhere.{name.rpartition('.')[2]}", "1")
        assert suggested(error).rpartition(".")[2] == name.rpartition(".")[2]


@pytest.mark.parametrize("name", ["", *SECTIONS])
def test_every_list_of_values_suggests_one_of_them(name):
    config = default()
    kind, section = (SECTIONS[name], config[name]) if name else (RunOptions, config)
    for option, declared in declarations(kind).items():
        names = [*declared.choices()] if declared.choices else []
        for choice in names:
            if not isinstance(choice, str) or len(choice) < 3:
                continue
            before = section[option]
            section[option] = misspelled(choice)
            with pytest.raises(InputError) as error:
                check_section(kind, section, "config")
            section[option] = before
            assert suggested(error) in names, error.value


def test_models_and_tasks():
    for name in list_models():
        with pytest.raises(InputError) as error:
            canonical_name(misspelled(name))
        assert suggested(error) in list_models()
    for name in vtab.TASKS:
        with pytest.raises(InputError) as error:
            vtab.task(misspelled(name))
        assert suggested(error) in vtab.TASKS


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, capsys):
    assert main([misspelled(name)]) == 2
    found = re.search(r"did you mean '(\w+)'", capsys.readouterr().err)
    assert found and found[1] in COMMANDS


def test_messages_are_made_in_one_place():
    """What suggests a name elsewhere would escape the tests above."""
    homes = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "did you mean" in path.read_text()
    ]
    assert sorted(homes) == ["errors.py"]

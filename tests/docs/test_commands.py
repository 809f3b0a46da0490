"""Every command that README and docs print is one that the program takes."""

import importlib
import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, commands
from vit_jax.cli.main import COMMANDS, main
from vit_jax.config_files import load_config

ALL = [(page, words) for page in PAGES for words in commands(page)]
OWN = [(page, words) for page, words in ALL if words[0] == "vit_jax"]
OTHERS = [(page, words) for page, words in ALL if words[0] != "vit_jax"]
# Files that the pages define themselves; tests/extending runs them.
OWN_FILES = ("stripes.py", "flat.py", "window.py", "mine.py")


def named(cases):
    return [f"{page.name}: {' '.join(words)}"[:120] for page, words in cases]


def test_there_are_commands():
    assert len(OWN) > 55 and len(OTHERS) > 10


@pytest.mark.parametrize(("page", "words"), OWN, ids=named(OWN))
def test_the_program_takes_it(page, words, monkeypatch):
    """Each is parsed by the program, and its config is loaded with the overrides."""
    name = next((word for word in words[1:] if not word.startswith("-")), None)
    if name is None:
        return  # --version, --help
    taken = []
    room, _ = COMMANDS[name]
    module = importlib.import_module(f"{room}.{name}")
    monkeypatch.setattr(module, "run", lambda args: taken.append(args) or 0)
    monkeypatch.setattr("vit_jax.train.health.signals.end_start_on_signals", lambda: None)
    monkeypatch.chdir(ROOT)
    # --import names files that the pages define.
    assert main([word for word in words[1:] if not word.startswith("--import")]) == 0
    (args,) = taken
    config = getattr(args, "config", "") or ""
    file = Path(config.partition(":")[0])
    if not config or file.name in (*OWN_FILES, "images.py"):  # which reads weights and images
        return
    assert file.is_file(), f"{page.name} names {file}, which does not exist"
    load_config(config, args.overrides)


@pytest.mark.parametrize(("page", "words"), OTHERS, ids=named(OTHERS))
def test_files_flags_and_extras_exist(page, words):
    program, *rest = words
    flags = [word.partition("=")[0] for word in rest if re.match(r"--\w", word)]
    if program == "pip":
        source = (ROOT / "setup.py").read_text()
        for extra in re.findall(r"(?:vit_jax|\.)\[(.*?)\]", " ".join(rest)):
            for name in extra.split(","):
                assert f'"{name}": [' in source, f"{page.name}: no extra {name}"
        return
    if program == "pytest":
        paths = [word for word in rest if word.startswith("tests")]
        assert paths and all((ROOT / path.partition("::")[0]).exists() for path in paths)
        return
    file = ROOT / (rest[1].replace(".", "/") + ".py" if rest[0] == "-m" else rest[0])
    if file.name == "imagenet21k.py":  # a script that docs/data.md prints
        return
    if rest[:3] == ["-m", "pip", "install"]:
        return
    assert file.is_file(), f"{page.name} names {file}, which does not exist"
    if program == "python":
        text = file.read_text()
        for flag in flags:
            assert f'"{flag}"' in text, f"{page.name}: {file.name} has no {flag}"


def test_a_wrong_flag_is_noticed():
    assert main(["train", "--config=configs/quickstart.py", "--workdri=x"]) == 2

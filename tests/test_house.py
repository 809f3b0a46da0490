"""The house: imports run down only, and files and folders stay small enough to read."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vit_jax"
# From the bottom up. A room may import rooms of lower rungs, and itself.
RUNGS = (
    ("errors", "files", "text", "parallel.axes"),
    ("registry", "schema", "trees"),
    ("jsonl",),
    ("spec",),
    ("options",),
    ("durations",),
    ("models",),
    ("data", "parallel"),
    ("weights",),
    ("tasks", "checkpoint"),
    ("evaluate",),
    ("report.card",),
    ("train",),
    ("config",),
    ("config_files",),
    ("finetune",),
    ("plan", "figures"),
    ("speed", "paper", "report"),
    ("cli",),
)
HEIGHT = {room: height for height, rooms in enumerate(RUNGS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(module):
    """The room of a module, "" for the package itself."""
    parts = module.split(".")[1:]
    if ".".join(parts) in HEIGHT:
        return ".".join(parts)
    return parts[0] if parts else ""


def imported(path):
    """The modules of the package that a file imports anywhere, even within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.startswith("vit_jax") and _exists(whole)
                found.add(whole if is_module else node.module)
    return {name for name in found if name.split(".")[0] == "vit_jax"}


def _exists(module):
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_down_only(path):
    own = module_of(path)
    room = room_of(own)
    if room in ("", "__main__"):
        return  # the public names, which are imported when they are asked for
    assert room in HEIGHT, f"{own} is in no rung"
    for module in sorted(imported(path)):
        other = room_of(module)
        if other in ("", room):
            continue
        assert HEIGHT[other] < HEIGHT[room], f"{own} imports {module}, which is not below it"


def test_every_folder_is_a_package():
    """Folders without __init__.py are missing from a wheel."""
    folders = {path.parent for path in FILES}
    assert all((folder / "__init__.py").exists() for folder in folders)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_no_folder_has_more_than_a_dozen_files():
    for folder in {path.parent for path in FILES}:
        entries = ("__init__.py", "__main__.py")
        files = [path for path in folder.glob("*.py") if path.name not in entries]
        assert len(files) <= 12, f"{folder} has {len(files)} files"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=str)
def test_tests_import_without_pytorch(path):
    """It has no small build for every Python; with it come libraries that import it themselves."""
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    roots = {(name or "").partition(".")[0] for name in names}
    assert not roots & {"torch", "timm", "torchvision", "peft"}, path


def test_the_rungs_name_rooms_that_exist():
    for room in HEIGHT:
        assert importlib.util.find_spec(f"vit_jax.{room}"), room

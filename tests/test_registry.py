"""Registries import the package's own entries when they are looked for."""

import copy
import pickle
import subprocess
import sys

import pytest

from vit_jax.errors import InputError
from vit_jax.registry import Registry

# Imports every module of the package; all names were there before, from the registries' own lists.
COMPLETE = """
import gc, importlib, pkgutil
import vit_jax.train.loop, vit_jax.finetune.run, vit_jax.weights
from vit_jax.registry import Registry

registries = [thing for thing in gc.get_objects() if isinstance(thing, Registry)]
before = {registry.kind: list(registry) for registry in registries}
for module in pkgutil.walk_packages(vit_jax.__path__, "vit_jax."):
    if "._" not in module.name:
        importlib.import_module(module.name)
assert before == {registry.kind: list(registry) for registry in registries}, before
print(len(before), sum(map(len, before.values())))
"""
# What a run that uses none of it does not import.
LAZY = """
import sys
import vit_jax.train.loop
from vit_jax.config import default
from vit_jax.train.config import check

check(default())
loaded = [name for name in sys.modules if name.startswith("vit_jax.")]
for name in ("weights.formats", "data.ops.color", "evaluate.imagenet", "models.attention.local",
             "train.optim.directions.muon"):
    assert f"vit_jax.{name}" not in loaded, name
"""


def _output(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def test_every_entry_of_the_package_is_found():
    registries, entries = map(int, _output(COMPLETE).split())
    assert entries > registries > 1


def test_a_run_imports_what_it_uses():
    _output(LAZY)


def test_modules_are_imported_until_a_name_is_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    things: Registry[int] = Registry("thing", "lazy_one", "lazy_two")
    monkeypatch.setattr(sys, "lazy_things", things, raising=False)
    for number, name in enumerate(("one", "two")):
        text = f"import sys\nsys.lazy_things._things[{name!r}] = {number}\n"
        (tmp_path / f"lazy_{name}.py").write_text(text)
    assert things["one"] == 0 and "lazy_two" not in sys.modules
    assert "two" in things
    assert list(things) == ["one", "two"] and len(things) == 2
    with pytest.raises(InputError, match="did you mean 'two'"):
        things["tow"]


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from vit_jax.models.attention.self_attention import ATTENTION_KINDS
from vit_jax.weights.families import FAMILIES
from vit_jax.weights.write import FORMATS

sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as pool:
    kinds = list(pool.map(ATTENTION_KINDS.__getitem__, ["window", "sparse"] * 8))
    families = list(pool.map(len, [FAMILIES] * 8))
    formats = list(pool.map(lambda _: sorted(FORMATS), range(8)))
assert len({*kinds}) == 2 and len({*families}) == 1 and formats == formats[:1] * 8
"""


def test_threads_wait_for_what_is_being_imported():
    _output(THREADS)


def test_an_import_that_failed_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    things: Registry[int] = Registry("thing", "lazy_broken")
    monkeypatch.setattr(sys, "lazy_things", things, raising=False)
    file = tmp_path / "lazy_broken.py"
    file.write_text("import package_that_is_not_there")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="package_that_is_not_there"):
            things["one"]
    file.write_text("import sys\nsys.lazy_things._things['one'] = 1\n# another size\n")
    assert things["one"] == 1


def test_a_registry_can_be_copied_and_pickled():
    things: Registry[int] = Registry("thing")
    things.add("one", 1)
    for copied in (copy.deepcopy(things), pickle.loads(pickle.dumps(things))):
        assert list(copied) == ["one"] and copied["one"] == 1


def test_a_users_entry_takes_no_name_of_the_package():
    from vit_jax.models.attention.self_attention import ATTENTION_KINDS

    def window():
        """Of a user's file."""

    window.__module__ = "my_file"
    with pytest.raises(InputError, match="attention kind 'window' is registered already"):
        ATTENTION_KINDS.add("window", window)

"""The examples of the public docstrings run, and docs/api.md is made of them."""

import doctest
import importlib.util
import pathlib

import numpy as np
import pytest

import vit_jax

SCRIPT = pathlib.Path(__file__).parents[2] / "docs" / "build_api.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_api", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference(script):
    named = {name.partition(".")[2] for name in script.public() if name.startswith("vit_jax.")}
    assert named == set(vit_jax.__all__) - {"__version__"}


def test_the_page_is_that_of_the_docstrings(script):
    assert script.PAGE.read_text() == script.page(), "run python docs/build_api.py"


def test_the_examples_run(script, tmp_path, monkeypatch):
    """In one folder, the example of `train` first: the others take its run."""
    monkeypatch.chdir(tmp_path)
    names = dict(vit_jax=vit_jax, pathlib=pathlib)
    finder = doctest.DocTestFinder(recurse=False)
    things = script.public()
    for name in sorted(things, key=lambda name: name != "vit_jax.train"):
        (found,) = finder.find(things[name], name, globs=dict(names), module=False)
        assert found.examples, f"{name} has no example"
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
        out: list[str] = []
        assert not runner.run(found, out=out.append).failed, "".join([name, "\n", *out])


def test_list_models_takes_patterns_for_both_lists():
    assert vit_jax.list_models("r50*") == ["R50+ViT-B/16", "R50+ViT-B/32", "R50+ViT-L/16",
                                           "R50+ViT-L/32"]  # fmt: skip
    published = vit_jax.list_models("dinov3*", pretrained=True)
    assert published and not set(published) & set(vit_jax.list_models())
    assert vit_jax.list_models("nothing*") == vit_jax.list_models("nothing*", pretrained=True) == []
    assert len(np.unique(vit_jax.list_models(pretrained=True))) > 100

"""`vit_jax doctor`: what is there, what is missing, and nothing that is secret."""

import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
from pathlib import Path

import jax
import pytest

from vit_jax.cli.commands.machine import doctor
from vit_jax.cli.main import main


def findings(capsys, status=0):
    assert main(["doctor", "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] == (status == 0)
    return document, {one["name"]: one for one in document["findings"]}


def test_versions_and_devices_are_those_of_this_process(capsys):
    document, found = findings(capsys)
    assert document["versions"]["Python"] == platform.python_version()
    assert document["versions"]["jax"] == jax.__version__
    assert document["versions"]["flax"] == importlib.metadata.version("flax")
    assert document["devices"] == [dict(platform="cpu", kind="cpu", count=jax.device_count())]
    assert 0 < document["memory"]["available"] <= document["memory"]["total"]
    assert found["computation"]["state"] == "ok"
    for extra, (modules, _) in doctor.EXTRAS.items():
        there = all(importlib.util.find_spec(name) for name in modules)
        assert found[extra]["state"] == ("ok" if there else "missing")


def test_the_extras_are_those_of_the_package():
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    declared = re.findall(r'^    "(\w+)": \[', setup, re.MULTILINE)
    assert set(doctor.EXTRAS) == set(declared) - {"cuda", "tpu", "test", "docs"}


def test_what_is_missing_comes_with_its_command(capsys, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    absent = ("pillow_heif", "pillow_jxl", "libtpu")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    full = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    pages = tmp_path / "enabled"
    pages.write_text("always madvise [never]\n")
    monkeypatch.setattr(doctor, "HUGE_PAGES", pages)
    _, found = findings(capsys)
    assert found["heic"]["command"] == "pip install 'vit_jax[heic]'"
    assert found["jxl"]["state"] == "missing" and found["plan"]["state"] == "missing"
    assert found["cache"]["state"] == "warning"
    assert found["huge pages"]["command"].startswith("echo madvise | sudo tee")


def test_a_plugin_of_another_version_and_a_device_without_one_are_named(capsys, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.1.2" if name == "jax-cuda12-plugin" else version(name),
    )
    from vit_jax.parallel import chips

    monkeypatch.setattr(chips, "_has_device", lambda kind: kind == "cuda")
    monkeypatch.setattr(chips, "_has_plugin", lambda kind: False)
    _, found = findings(capsys)
    command = f"pip install -U 'jax[cuda12]=={version('jax')}'"
    assert found["jax-cuda12-plugin"]["command"] == command
    assert found["NVIDIA GPU"]["command"] == "pip install 'vit_jax[cuda]'"


def test_without_a_library_that_runs_need_it_fails(capsys, monkeypatch):
    version = importlib.metadata.version

    def without(name):
        if name == "optax":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    document, found = findings(capsys, status=1)
    assert found["optax"] == dict(
        name="optax", state="error", about="is not installed", command="pip install optax"
    )
    assert main(["doctor"]) == 1
    assert "no run would work" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["HF_TOKEN", "HTTPS_PROXY"])
def test_tokens_and_proxies_are_not_printed(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv(name, "hunter2:secret@host")
    for words in (["doctor"], ["doctor", "--json"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert "hunter2" not in text and "secret@host" not in text
    _, found = findings(capsys)
    assert found["hub token"]["state"] == ("ok" if name == "HF_TOKEN" else "missing")
    assert (name in found["proxy"]["about"]) == (name == "HTTPS_PROXY")

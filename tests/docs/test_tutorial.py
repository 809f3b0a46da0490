"""The tutorial from its first command to its last, and the Python of README and guides."""

import re

import numpy as np
import pytest
from PIL import Image

import vit_jax
from tests.docs.blocks import ROOT, blocks, commands
from vit_jax.cli.main import main

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder that the tutorial describes: photos/cat/1.jpg and so on."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(100 * number, 100 * number + 100, (40, 30, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.jpg")
    for name in ("cat.jpg", "dog.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "photos" / name[:3] / "1.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_works_as_printed(photos, capsys):
    own = [words[1:] for words in commands(TUTORIAL) if words[0] == "vit_jax"]
    assert [words[0] for words in own] == [
        "data", "finetune", "evaluate", "report", "predict", "predict", "convert",
    ]  # fmt: skip
    for words in own:
        # Shorter, with the same result: the tutorial's run takes minutes.
        short = {"finetune": ["--epochs=2"], "data": ["--seconds=0.01"]}.get(words[0], [])
        assert main([*words, *short]) == 0, words
    (python,) = blocks(TUTORIAL, "python")
    exec(python, {})
    said = capsys.readouterr().out
    assert "top-1" in said and said.splitlines()[-1] in ("cat", "dog")
    assert (photos / "workdirs/photos/report.html").is_file()
    assert list((photos / "maps").iterdir())
    assert (photos / "photos_model/config.json").is_file()


@pytest.mark.slow
def test_the_first_python_of_the_readme(photos, monkeypatch):
    """With the small model that comes with the package in the place of those of the hub."""
    (python,) = blocks(ROOT / "README.md", "python")
    text = re.sub(r'"google/[\w-]+"', '"vit_jax/fashion-mnist"', python)
    assert text != python
    short = text.replace('"photos", workdir', '"photos", epochs=2, workdir')
    found: dict = {}
    exec(short, found)
    assert found["logits"].shape == (1, 10)
    assert found["summary"]["metrics"] and found["summary"]["outcome"]["examples"]


def test_what_the_guides_call_exists():
    """The names that docs/coming_from.md gives for those of other programs."""
    lines = (ROOT / "docs" / "coming_from.md").read_text().splitlines()
    text = "\n".join(line.rsplit("|", 2)[1] for line in lines if line.startswith("|"))
    for name in set(re.findall(r"vit_jax\.(\w+)\(", text)):
        assert callable(getattr(vit_jax, name)), name
    from vit_jax.train.config import every_option

    options = {one.name for one in every_option()}
    sections = {name.rpartition(".")[0] for name in options}
    for name in set(re.findall(r"`-{0,2}config\.([a-z_.]+[a-z_])", text)):
        if not name.startswith("evals."):
            assert name in options | sections, name

"""The commands of docs/data.md work as they are printed."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_the_command_for_a_config_works_as_described(layout, tmp_path, monkeypatch, capsys):
    guide = (ROOT / "docs/data.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", guide, re.S)
    command = next(block for block in blocks if "data --config" in block)
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:2] == ["vit_jax", "data"]
    if layout == "classes":  # the sentence below the command
        other = re.search(r"`(--config.data.split=[^`]*)`", guide)
        words = [word for word in words if "split" not in word] + shlex.split(other[1])
    rng = np.random.default_rng(0)
    for split in ("train", "val") if layout == "splits" else ("",):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(10):
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(
                    folder / f"{i}.jpg"
                )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    assert main([*words[1:], "--seconds=0.01", "--config.batch_size=4"]) == 0
    assert "evaluation test" in capsys.readouterr().out
    assert (tmp_path / "examples.png").is_file()


def test_the_data_of_other_types_of_evaluation_are_shown(tmp_path, capsys):
    (tmp_path / "c.py").write_text(
        "from vit_jax.config import default, evaluation\n"
        "def get_config():\n"
        "    c = default()\n"
        "    c.data.pp = 'resize(8)'\n"
        "    with c.unlocked():\n"
        "        c.evals.few = evaluation('fewshot', train='train[:80%]', test='train[80%:]')\n"
        "    c.total.steps = 1\n"
        "    return c\n"
    )
    assert main(["data", f"--config={tmp_path}/c.py", "--seconds=0.01"]) == 0
    assert "evaluation few (train[80%:])" in capsys.readouterr().out


def test_a_folder_is_shown_without_a_config(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(10):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(
                tmp_path / "photos" / name / f"{i}.png"
            )
    monkeypatch.chdir(tmp_path)
    assert main(["data", "photos", "--seconds=0.01", "--config.batch_size=4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["source"], shown["split"]) == ("folder:photos", "train[:90%]")
    assert shown["evals"]["test"]["split"] == "train[90%:]"
    assert shown["examples"] + shown["evals"]["test"]["examples"] == 20
    words = ["data", "photos", "--seconds=0.01", "--config.data.split=train[:50%]"]
    assert main([*words, "--config.evals.test.split=train[50%:]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 10
    for wrong in (["data"], ["data", "photos", "--config=configs/quickstart.py"]):
        assert main(wrong) == 2
        assert "give one of them" in capsys.readouterr().err

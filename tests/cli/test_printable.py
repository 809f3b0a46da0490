"""Names of files and classes reach the terminal escaped, in one line."""

import io
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main
from vit_jax.text import PrintableFormatter, printable

LABELS = ["\x1b]0;owned\x07\x1b[31mred", "two\nvit_jax: fake line", "\x1b[2J", "süß \u202egpj"]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain", "plain"),
        ("süß 猫\u3000😀", "süß 猫\u3000😀"),
        ("a\nb\r\t\x00", "a\\nb\\r\\t\\x00"),
        ("\x1b[31mred\x7f\x9b", "\\x1b[31mred\\x7f\\x9b"),
        ("gpj\u202egnp.exe\u2028", "gpj\\u202egnp.exe\\u2028"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\xe9.png"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_shows(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable() or "\u3000" in shown
    shown.encode()


def test_log_lines_are_escaped():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PrintableFormatter())
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: bad", ("a\n\x1b[2J.png",), None)
    handler.emit(record)
    assert stream.getvalue() == "a\\n\\x1b[2J.png: bad\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights beside which a JSON file names the classes."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(
        folder / "data.npz",
        images=np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8),
        labels=np.arange(16) % 4,
        label_names=["a", "b", "c", "d"],
    )
    config = folder / "c.py"
    config.write_text(
        "from vit_jax.config import default\n"
        "def get_config():\n"
        "    c = default(); c.model.name = 'ViT-Ti/4'\n"
        "    c.model.update(width=16, depth=1, mlp_dim=16, num_heads=2)\n"
        f"    c.data.source = 'npz:{folder}/data.npz'; c.data.pp = 'value_range(-1, 1)'\n"
        "    c.batch_size = 8; c.total.steps = 1; c.log.tensorboard = False\n"
        "    return c\n"
    )
    assert main(["train", f"--config={config}", f"--workdir={folder}/run"]) == 0
    assert main(["convert", f"{folder}/run", f"{folder}/w.npz"]) == 0
    about = folder / "w.npz.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(labels=LABELS)))
    return folder / "w.npz"


def test_predict_escapes_labels_and_names(weights, tmp_path, capsys):
    path = tmp_path / "ok\x1b[32m\n.png"
    Image.new("RGB", (8, 8)).save(path)
    assert main(["predict", f"--checkpoint={weights}", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable() and "ok\\x1b[32m\\n.png: " in line
    assert all(printable(label) in line for label in LABELS)


def test_errors_are_one_escaped_line(weights, tmp_path, capsys):
    path = tmp_path / "bad\x1b[32m\nname.png"
    path.write_text("no image")
    assert main(["predict", f"--checkpoint={weights}", str(path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.isprintable() and "bad\\x1b[32m\\nname.png: cannot be read" in line


def test_a_broken_image_among_others_is_named_at_the_end(weights, tmp_path, capsys):
    for name in ("a.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "b.png").write_text("no image")
    assert main(["predict", f"--checkpoint={weights}", str(tmp_path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert [bool(result["top"]) for result in json.loads(out)] == [True, False, True]
    assert err.splitlines()[-1].endswith(json.loads(out)[1]["error"])
    assert "b.png: cannot be read as an image" in err


def test_the_data_command_escapes_classes(tmp_path, capsys):
    for name in ("\x1b[31mcat", "dog\n"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    words = [f"--config.data.source=folder:{tmp_path}", "--config.data.pp=resize(8)"]
    config = ["data", "--config=configs/quickstart.py:pretrain", "--seconds=0.01"]
    assert main([*config, *words, "--config.evals.test.split=train", "--config.batch_size=2"]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[31mcat 1, dog\\n 1\n" in out and "\x1b" not in out


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_names_that_the_locale_cannot_show(encoding, weights, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    os.rename(tmp_path / "a.png", name)
    found = subprocess.run(
        [sys.executable, "-m", "vit_jax", "predict", f"--checkpoint={weights}", name],
        env=dict(os.environ, PYTHONIOENCODING=encoding), capture_output=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert b"caf\\xe9.png: " in found.stdout

"""`vit_jax evaluate`: what it prints and writes about a classifier's errors."""

import csv
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from vit_jax.checkpoint.load import load
from vit_jax.cli.main import main
from vit_jax.config import default
from vit_jax.config import evaluation as entry
from vit_jax.data import open_source
from vit_jax.train import loop

NAMES = ["$red\x1b", "green", "blue/sky"]


@pytest.fixture(scope="module")
def run_of_folder(tmp_path_factory):
    """A model of images in one colour that is trained a little; folders name the classes."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (60, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(60) % 3
    for i in range(60):
        images[i, ..., labels[i]] += np.uint8(rng.integers(0, 40))
    np.savez(root / "d.npz", images=images, labels=labels, label_names=NAMES)
    config = default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=2)
    config.data.update(source=f"npz:{root}/d.npz", pp="value_range(-1, 1)", split="train[:50%]")
    config.batch_size = 16
    config.total.steps = 30
    config.optimizer.learning_rate = 0.01
    config.log.tensorboard = False
    with config.unlocked():
        config.evals.test = entry(split="train[50%:]")
    loop.train(config, str(root / "run"))
    model, _ = load(str(root / "run"))
    logits = np.asarray(model(np.float32(images) / 127.5 - 1), np.float64)
    rows = open_source(f"npz:{root}/d.npz", "train[50%:]").rows  # a part of each class
    return root, images[rows], labels[rows], logits[rows]


def run(capsys, root, *words):
    status = main(["evaluate", f"--checkpoint={root}/run", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_progress_is_shown_on_a_terminal(run_of_folder, capsys, monkeypatch):
    root, *_ = run_of_folder
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("vit_jax.cli.progress.EVERY", 0.0)
    status, out, err = run(capsys, root, "--batch-size=8")
    assert status == 0 and "\x1b[K" not in out
    shown = [line for line in err.split("\x1b[K") if "of 30 images" in line]
    assert [line.split()[0] for line in shown] == ["8", "16", "24", "30"]
    assert err.endswith("\r\x1b[K")  # erased


def test_json_keeps_its_contract_and_gains_keys(run_of_folder, capsys):
    root, _, labels, logits = run_of_folder
    status, out, _ = run(capsys, root, "--json", "--batch-size=16")
    found = json.loads(out)
    assert status == 0 and set(found) >= {"top1", "top5", "loss", "examples", "source", "split"}
    predicted = logits.argmax(-1)
    assert found["examples"] == 30
    assert found["top1"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert 0.2 < found["top1"] < 1  # there are errors to name
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, softmax(logits)), 1e-4)
    assert len(found["calibration"]) == 15 and "confusion" not in found
    assert sum(one["count"] for one in found["calibration"]) == 30
    recalls = metrics.recall_score(labels, predicted, average=None)
    assert found["class_accuracy"] == pytest.approx(dict(zip(NAMES, recalls)))
    assert len(found["worst"]) == (predicted != labels).sum()


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_any_subset(run_of_folder, capsys):
    root, _, labels, logits = run_of_folder
    right = 0
    for split in ("train[50%:75%]", "train[75%:]"):
        status, out, _ = run(capsys, root, "--json", f"--split={split}", "--batch-size=8")
        found = json.loads(out)
        assert status == 0 and found["examples"] == 15 and found["split"] == split
        right += 15 * found["top1"]
    assert right == pytest.approx(np.sum(logits.argmax(-1) == labels))


def test_what_is_printed_is_escaped_and_says_all(run_of_folder, capsys):
    root, _, labels, logits = run_of_folder
    status, out, _ = run(capsys, root)
    lines = out.splitlines()
    right = np.mean(logits.argmax(-1) == labels)
    assert status == 0 and lines[0].startswith(f"top-1 {right:.2%}, loss ")
    assert lines[0].endswith(f"on 30 examples of npz:{root}/d.npz (train[50%:])")
    assert lines[1].startswith("expected calibration error ") and "(15 bins)" in lines[1]
    for part in ("accuracy by class, the lowest first:", "confused most often:", "worst errors:"):
        assert part in lines
    assert "$red\\x1b" in out and "\x1b" not in out


def test_the_confusion_matrix_in_files(run_of_folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    root, _, labels, logits = run_of_folder
    expected = metrics.confusion_matrix(labels, logits.argmax(-1))
    for ending in ("json", "csv", "png"):
        assert run(capsys, root, f"--confusion={tmp_path}/c.{ending}", "--json")[0] == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert found == dict(labels=NAMES, confusion=expected.tolist())
    head, *rows = csv.reader((tmp_path / "c.csv").read_text().splitlines())
    assert head[1:] == [row[0] for row in rows] == ["$red\\x1b", "green", "blue/sky"]
    assert [[int(cell) for cell in row[1:]] for row in rows] == expected.tolist()
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"), int)
    assert min(picture.shape[:2]) > 300 and picture.std() > 5


def test_the_worst_errors_with_their_pictures(run_of_folder, tmp_path, capsys):
    root, images, labels, logits = run_of_folder
    status, out, _ = run(capsys, root, f"--worst={tmp_path}/new/worst", "--worst-count=3", "--json")
    p = softmax(logits)
    wrong = np.flatnonzero(p.argmax(-1) != labels)
    order = wrong[np.argsort(p[wrong, labels[wrong]])][:3]
    assert status == 0 and [one["index"] for one in json.loads(out)["worst"]] == order.tolist()
    with open(tmp_path / "new" / "worst" / "index.csv") as file:
        rows = list(csv.DictReader(file))
    assert sorted(os.listdir(tmp_path / "new" / "worst")) == sorted(
        [*(row["file"] for row in rows), "index.csv"]
    )
    safe = ["red", "green", "blue-sky"]
    for rank, (row, i) in enumerate(zip(rows, order, strict=True), 1):
        label, predicted = labels[i], p[i].argmax()
        names = f"{rank:03}_label-{safe[label]}_predicted-{safe[predicted]}_{p[i].max():.3f}.png"
        assert row["file"] == names and row["image"].startswith(f"example {i} of npz:")
        assert float(row["loss"]) == pytest.approx(-np.log(p[i, label]), rel=1e-3)
        found = np.asarray(Image.open(tmp_path / "new" / "worst" / names))
        np.testing.assert_array_equal(found, images[i])


def test_wrong_input(run_of_folder, tmp_path, capsys, monkeypatch):
    root = run_of_folder[0]
    np.savez(
        tmp_path / "sets.npz",
        images=np.zeros((4, 8, 8, 3), np.uint8),
        labels=np.ones((4, 3), np.uint8),
        label_names=NAMES,
    )
    for words, reason in (
        ((f"--confusion={tmp_path}/c.txt",), "must end in .png, .csv or .json"),
        ((f"--confusion={tmp_path}/no/c.png",), "cannot be written"),
        ((f"--worst={tmp_path}/sets.npz/x",), "cannot be written"),
        (("--worst-count=0",), "too small"),
        (("--worst-count=5",), "--worst-count goes with --worst=DIR or --json"),
        (("--split=tests",), "unknown split 'tests' of npz:"),
        (("--split=tests",), "; its splits: train; all: every one of them"),
        (("--protocol=v2", "--source=x", f"--worst={tmp_path}/w"), "--worst goes without"),
    ):
        status, out, err = run(capsys, root, *words)
        assert status == 2 and out == "" and reason in err.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run(capsys, root, f"--confusion={tmp_path}/c.png")
    assert status == 2 and "pip install 'vit_jax[figures]'" in err
    assert os.listdir(tmp_path) == ["sets.npz"]


def test_sets_of_classes_have_no_confusion(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (16, 3)).astype(np.uint8)
    images = rng.integers(0, 256, (16, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=labels, label_names=list("abc"))
    config = default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=2)
    config.data.update(source=f"npz:{tmp_path}/d.npz", multi_label=True, pp="value_range(-1, 1)")
    config.loss.name = "sigmoid"
    config.batch_size = 8
    config.total.steps = 1
    config.log.tensorboard = False
    with config.unlocked():
        config.evals.test = entry(split="train")
    loop.train(config, str(tmp_path / "run"))
    status, out, err = run(capsys, tmp_path, f"--confusion={tmp_path}/c.csv")
    assert status == 2 and "--confusion needs one class an image; " in err
    assert "is of images with sets of classes" in err and not (tmp_path / "c.csv").exists()
    status, out, _ = run(capsys, tmp_path)
    assert status == 0 and "mean average precision" in out and "  a: " in out

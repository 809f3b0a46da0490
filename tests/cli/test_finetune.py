"""`vit_jax finetune WEIGHTS DATA`, with nothing else."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.evaluate.test_processes import two_processes
from tests.finetune.conftest import photos, photos_in_splits, pretrained  # noqa: F401
from vit_jax.checkpoint.stored import latest_checkpoint, read_params
from vit_jax.cli.main import main
from vit_jax.finetune.run import as_source, default_workdir


def test_a_folder_and_nothing_else(pretrained, photos, tmp_path, capfd, caplog, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    capfd.readouterr()
    assert main(["finetune", str(pretrained), str(photos), "--config.batch_size=16"]) == 0
    out = capfd.readouterr().out
    workdir = tmp_path / "workdirs" / "run-photos"
    command = caplog.text.split("this is ", 1)[1].splitlines()[0]
    assert command.startswith(f"vit_jax train --config=configs/images.py:{pretrained},folder:")
    assert "--config.batch_size=16" in command
    top1 = json.loads((workdir / "summary.json").read_text())["metrics"]["eval/test/top1"]
    assert top1 > 0.8 and "top-1" in out and "train[90%:]" in out
    assert "vit_jax predict --checkpoint=workdirs/run-photos IMAGE" in out
    assert "vit_jax report workdirs/run-photos" in out
    # The command as printed is the same run, which is done.
    assert main(command.split()[1:]) == 0
    assert "is done already" in caplog.text
    assert main(["predict", "--checkpoint=workdirs/run-photos", f"{photos}/red/0.png"]) == 0
    assert "red" in capfd.readouterr().out


def test_a_run_goes_on_without_its_weights(pretrained, photos, tmp_path, caplog, capfd):  # noqa: F811
    weights, workdir = tmp_path / "weights", tmp_path / "run"
    shutil.copytree(pretrained, weights)
    words = ["finetune", str(weights), str(photos), f"--workdir={workdir}", "--epochs=2"]
    words += ["--config.checkpoint.every.epochs=1", "--config.checkpoint.keep=9"]
    assert main(words) == 0
    config = json.loads((workdir / "config.json").read_text())
    expected = read_params(latest_checkpoint(workdir))
    shutil.rmtree(latest_checkpoint(workdir))
    (workdir / "summary.json").unlink()
    shutil.rmtree(weights)
    assert main(words) == 0
    assert json.loads((workdir / "config.json").read_text()) == config
    jax.tree.map(np.testing.assert_array_equal, read_params(latest_checkpoint(workdir)), expected)
    # Other weights are still refused, whether they are there or not.
    for other in (pretrained, tmp_path / "gone"):
        assert main(["finetune", str(other), *words[2:]]) == 2
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert "belongs to a run with another config: init_from" in last


def test_two_processes_fine_tune_as_one(pretrained, photos_in_splits, tmp_path, capfd):  # noqa: F811
    words = ["finetune", str(pretrained), str(photos_in_splits), "--epochs=1", "--json"]
    words += ["--config.log.every=1", "--config.batch_size=16"]
    workdirs = tmp_path / "one", tmp_path / "two"
    assert main([*words, f"--workdir={workdirs[0]}"]) == 0
    more = ["--process-timeout=200", "--num-processes=2"]
    first, second = two_processes(
        *("-m", "vit_jax", *words, f"--workdir={workdirs[1]}", *more),
        numbered=("--coordinator={0}", "--process-id={1}"),
    )
    assert json.loads(first)["outcome"]["examples"] == 12 and not second
    losses = []
    for place in workdirs:
        lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
        losses.append([line["train/loss"] for line in lines if "train/loss" in line])
    assert len(losses[0]) > 2
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_json(pretrained, photos_in_splits, tmp_path, capfd):  # noqa: F811
    capfd.readouterr()
    arguments = ["--epochs=1", f"--workdir={tmp_path / 'run'}", "--json"]
    assert main(["finetune", str(pretrained), str(photos_in_splits), *arguments]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["outcome"]["examples"] == 12 and found["outcome"]["split"] == "val"
    assert sum(map(sum, found["outcome"]["confusion"])) == 12
    assert set(found["outcome"]["class_accuracy"]) == {"red", "green", "blue"}


def test_the_outcome_is_of_what_the_run_evaluates(pretrained, photos_in_splits, tmp_path, capfd):  # noqa: F811
    """Averaged parameters and flipped images, where its evaluation says so."""
    workdir = tmp_path / "run"
    words = ["--epochs=1", "--config.optimizer.ema_decay=0.9", "--config.evals.test.use_ema=True"]
    words += ["--config.evals.test.tta=flip", "--config.optimizer.learning_rate=0.03"]
    words += [f"--workdir={workdir}", "--json"]
    assert main(["finetune", str(pretrained), str(photos_in_splits), *words]) == 0
    found = json.loads(capfd.readouterr().out)
    expected = found["metrics"]["eval/test/loss"]
    assert found["outcome"]["loss"] == pytest.approx(expected, rel=1e-5)
    assert "--use-ema" in found["outcome"]["predict"]
    card = (workdir / "README.md").read_text()
    assert "vit_jax predict --checkpoint=run --use-ema IMAGE" in card
    plain = ["evaluate", f"--checkpoint={workdir}", "--json", "--source"]
    assert main([*plain, found["outcome"]["source"], "--split=val", "--tta=none"]) == 0
    assert json.loads(capfd.readouterr().out)["loss"] != pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_a_sweep_of_real_runs(pretrained, photos, tmp_path):  # noqa: F811
    """Without a split for evaluation: a run without the held-out images tells the accuracy."""
    program = (
        "import sys; from vit_jax.finetune import sweep; from vit_jax.cli.main import main; "
        "sweep.RATES, sweep.DECAYS, sweep.SHARES = (1.0, 10.0), (0.8,), (0.1,); "
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["finetune", str(pretrained), str(photos), "--sweep", "--epochs=4"]
    command = [sys.executable, "-c", program, *words, f"--workdir={tmp_path / 'run'}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "sweep" / "sweep.json").read_text())
    scores, whole = (rung["scores"] for rung in record["rungs"])
    assert record["best"] == max(scores, key=scores.get)
    outcome = json.loads(done.stdout)["outcome"]
    assert outcome["top1"] == pytest.approx(whole[record["best"]])
    assert outcome["split"].startswith("train[") and "/sweep/whole/" in outcome["measured"]
    assert outcome["checkpoint"].startswith(str(tmp_path / "run" / "checkpoints"))
    assert main(["predict", f"--checkpoint={tmp_path / 'run'}", str(next(photos.glob("*/*")))]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["optimizer"]["layer_decay"] == 0.8 and config["data"]["split"] == "train"


@pytest.mark.parametrize(
    "words, message",
    [
        (["none.npz", "DATA"], "none.npz"),
        (["WEIGHTS", "nowhere"], "there is no folder or table nowhere here"),
        (["WEIGHTS", "folder:nowhere"], "no such directory"),
        (["WEIGHTS", "DATA", "--epochs=0"], "epochs=0"),
        (["WEIGHTS", "DATA", "--image-size=-4"], "-4 is too small"),
        (["WEIGHTS", "DATA", "--jobs=0"], "0 is too small"),
        (["WEIGHTS", "DATA", "--config.lr=1"], "did you mean '--config.optimizer.learning_rate'"),
        (["WEIGHTS", "DATA", "--learning-rate=1"], "--config.optimizer.learning_rate=1"),
    ],
)
def test_wrong_input(words, message, pretrained, photos, tmp_path, capfd):  # noqa: F811
    names = dict(WEIGHTS=str(pretrained), DATA=str(photos))
    words = [names.get(word, word) for word in words]
    assert main(["finetune", *words, f"--workdir={tmp_path / 'run'}"]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("vit_jax: ") and message in last
    assert not (tmp_path / "run").exists()


def test_data_may_be_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert as_source("photos") == "folder:photos"
    assert as_source("folder:photos") == "folder:photos" and as_source("digits") == "digits"
    assert default_workdir("org/name-b16", "folder:a/photos") == "workdirs/name-b16-photos"
    assert default_workdir("a/hub", "folder:photos") == "workdirs/hub-photos"
    assert default_workdir("B_16.npz", "csv:x/labels.csv") == "workdirs/B_16.npz-labels.csv"

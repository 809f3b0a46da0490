"""`vit_jax fewshot`, `probe`, `figures` and `evaluate --protocol` on a small model."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vit_jax.cli.main import main


def run(capfd, *argv):
    """Exit status, standard output, the last line of standard error."""
    status = main([str(word) for word in argv])
    out, err = capfd.readouterr()
    return status, out, (err.strip().splitlines() or [""])[-1]


def test_fewshot_by_default_on_the_runs_own_data(workdir, capfd):
    status, out, _ = run(
        capfd, "fewshot", f"--checkpoint={workdir}", "--shots=5,1", "--seeds=2", "--json"
    )
    result = json.loads(out)
    metrics = json.loads((workdir / "summary.json").read_text())["metrics"]
    assert status == 0
    assert (result["source"], result["train"], result["test"]) == (
        "digits", "train[:70%]", "train[70%:]",
    )  # fmt: skip
    for shots in ("1", "5"):
        found = result["shots"][shots]
        assert found["top1"] == pytest.approx(metrics[f"eval/digits/{shots}shot"])
        assert found["l2"] == 1024 and len(found["seeds"]) == 2


def test_probes_are_ahead_of_few_shots(workdir, capfd):
    data = ("--source=digits", "--train=train[:70%]", "--test=train[70%:]")
    results = {}
    for method in ("linear", "knn"):
        status, out, _ = run(
            capfd, "probe", f"--checkpoint={workdir}", *data, f"--method={method}", "--json"
        )
        results[method] = json.loads(out)
        assert status == 0 and results[method]["examples"] == 539
    metrics = json.loads((workdir / "summary.json").read_text())["metrics"]
    for result in results.values():
        assert result["top1"] > metrics["eval/digits/5shot"]
    assert results["knn"]["k"] == 20 and results["linear"]["c"] == 1


def test_figures_of_an_image(workdir, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    digit = np.uint8(load_digits().images[0] * 15)
    Image.fromarray(digit).save(tmp_path / "digit.png")
    status, out, _ = run(
        capfd, "figures", f"--checkpoint={workdir}", f"--image={tmp_path / 'digit.png'}",
        f"--output={tmp_path / 'figures'}", "--json",
    )  # fmt: skip
    drawn = json.loads(out)
    assert status == 0 and drawn["skipped"] == {}
    assert list(drawn["figures"]) == ["filters", "positions", "distance", "rollout"]
    for path in drawn["figures"].values():
        assert np.asarray(Image.open(path).convert("RGB")).std() > 5  # not blank
    distances = np.array(drawn["distances"])
    assert distances.shape == (2, 2)  # layers, heads
    assert (distances > 0).all() and (distances < np.hypot(12, 12)).all()  # 4x4 patches of 4


def test_figures_of_the_weights_alone(workdir, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    status, out, _ = run(capfd, "figures", f"--checkpoint={workdir}", f"--output={tmp_path}")
    assert status == 0 and "not drawn: no --image and no --source" in out
    assert {path.name for path in tmp_path.iterdir()} == {"filters.png", "positions.png"}


def test_figures_without_matplotlib(workdir, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, last = run(capfd, "figures", f"--checkpoint={workdir}", f"--output={tmp_path}")
    assert status == 2 and "pip install 'vit_jax[figures]'" in last


def test_v2_by_the_command(workdir, tmp_path, capfd):
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        digits = load_digits()
        image = digits.images[digits.target == number][0] * (255 / 16)
        Image.fromarray(np.uint8(image)).save(tmp_path / str(number) / "0.png")
    status, out, _ = run(
        capfd, "evaluate", f"--checkpoint={workdir}", "--protocol=v2", f"--source=folder:{tmp_path}"
    )
    assert status == 0 and "on 10 examples" in out and "loss" not in out


WRONG = {
    "shots": (["fewshot", "--shots=5,x"], "no list of numbers"),
    "seeds": (["fewshot", "--seeds=0"], "at least one positive number"),
    "source": (["fewshot", "--source=digit"], "did you mean 'digits'"),
    "split": (["probe", "--test=tests"], "unknown split"),
    "batch": (["probe", "--batch-size=0"], "--batch-size is 0"),
    "method": (["probe", "--method=tree"], "invalid choice"),
    "neighbours": (["probe", "--method=knn", "--k=5000"], "k must be from 1 to"),
    "preprocessing": (["probe", "--pp=resize(20)|value_range(-1, 1)"], "the model takes (16, 16)"),
    "no normalisation": (["evaluate", "--pp=resize(16)"], "end it in value_range(-1, 1)"),
    "another": (["evaluate", "--pp=resize(16)|normalize"], "normalises pixels differently"),
    "another for v2": (["evaluate", "--protocol=v2", "--pp=resize(16)", "--source=digits"],
                       "end it in value_range(-1, 1)"),
    "another of features": (["probe", "--pp=resize(16)"], "end it in value_range(-1, 1)"),
    "another of shots": (["fewshot", "--pp=resize(16)"], "end it in value_range(-1, 1)"),
    "image": (["figures", "--image=/nowhere.png"], "/nowhere.png"),
    "both": (["figures", "--image=a.png", "--source=digits"], "not both"),
    "protocol": (["evaluate", "--protocol=v3", "--source=digits"], "unknown protocol 'v3'"),
    "labels": (["evaluate", "--labels=x"], "--labels goes with"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(case, workdir, tmp_path, capfd, monkeypatch):
    (command, *flags), hint = WRONG[case]
    monkeypatch.chdir(tmp_path)
    status, out, last = run(capfd, command, f"--checkpoint={workdir}", *flags)
    assert status == 2 and out == ""
    assert last.startswith("vit_jax: ") and hint in last


@pytest.mark.parametrize("command", ["fewshot", "probe", "figures", "evaluate"])
def test_help_has_an_example(command, capfd):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and f"vit_jax {command} --checkpoint=" in capfd.readouterr().out

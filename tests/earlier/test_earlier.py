"""Runs that an earlier version wrote are resumed, evaluated and predicted from as before.

`write.py` is the script that wrote them. Numbers may differ by rounding between processors.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vit_jax.cli.main import main

HERE = Path(__file__).parent
KINDS = ("pjit", "pmap", "ema", "masked", "hybrid")
NUMBERS = ("train/loss", "train/grad_norm", "train/learning_rate", "eval/test/loss")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(HERE / "runs.tar.xz", folder)
    return folder


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def printed(capfd, *args):
    assert main(args) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_as_it_did(kind, runs, tmp_path, kind_config):
    workdir = tmp_path / "run"
    shutil.copytree(runs / kind / "stopped", workdir)
    assert main(["train", f"--config={kind_config}:{kind}", f"--workdir={workdir}"]) == 0
    found, expected = lines(workdir), lines(runs / kind / "finished")
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for line, was in zip(found, expected, strict=True):
        names = [name for name in NUMBERS if name in was]
        np.testing.assert_allclose(
            [line[name] for name in names], [was[name] for name in names], rtol=2e-4
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_is_evaluated_as_it_was(kind, runs, capfd):
    expected = json.loads((runs / kind / "expected.json").read_text())["evaluate"]
    found = printed(capfd, "evaluate", f"--checkpoint={runs / kind / 'finished'}", "--json")
    assert found["examples"] == expected["examples"]
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)
    one = 1.5 / expected["examples"]  # a tie between two classes may fall otherwise
    np.testing.assert_allclose(found["top1"], expected["top1"], atol=one)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "masked"])
def test_a_finished_run_predicts_as_it_did(kind, runs, capfd):
    expected = json.loads((runs / kind / "expected.json").read_text())["predict"]
    checkpoint = f"--checkpoint={runs / kind / 'finished'}"
    image = str(runs / "three.png")
    found = printed(capfd, "predict", checkpoint, image, "--topk=3", "--json")[0]["top"]
    assert [top["index"] for top in found] == [top["index"] for top in expected]
    np.testing.assert_allclose(
        [top["probability"] for top in found],
        [top["probability"] for top in expected],
        rtol=1e-3,
    )


@pytest.fixture
def kind_config():
    return HERE / "config.py"

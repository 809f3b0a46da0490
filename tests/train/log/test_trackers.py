"""Trackers: what arrives in their own stores, after restarts, failures and wrong options."""

import csv
import dataclasses
import importlib.machinery
import importlib.util
import json
import struct
import time

import numpy as np
import pytest

from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.train.log.metrics import LogOptions, MetricsLog
from vit_jax.train.log.trackers import (
    TRACKERS,
    Histogram,
    Memory,
    Start,
    Tracker,
    Trackers,
    Writer,
    create_trackers,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)


def run(workdir, trackers, steps, start=0, finished=True):
    """One start of a run: metrics of its steps, and an image."""
    options = LogOptions(tensorboard=False, trackers=trackers)
    log = MetricsLog(workdir, options, step=start, options={"batch_size": 32, "model.name": "a"})
    log.images(start + 1, "train/images", IMAGES)
    for step in steps:
        log.add(step, {"train/loss": step / 4})
        if step % 2 == 0:
            log.add(step, {"eval/test/top1": step / 8})
        log.flush()
    log.close(finished)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_every_step_once_after_a_restart(tmp_path):
    run(tmp_path, ("csv",), (1, 2, 3))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,0.")  # torn by a kill
    run(tmp_path, ("csv",), (2, 3, 4), start=1)
    found = rows(tmp_path / "metrics.csv")
    assert [row["step"] for row in found] == ["1", "2", "3", "4"]
    assert [float(row["train/loss"]) for row in found] == [0.25, 0.5, 0.75, 1.0]
    assert [row["eval/test/top1"] for row in found] == ["", "0.25", "", "0.5"]


def test_mlflow_goes_on_with_its_run_and_has_no_step_twice(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="pip install 'vit_jax[trackers]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    trackers = ("mlflow(experiment='e', name='n')",)
    run(tmp_path, trackers, (1, 2, 3), finished=False)
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("e").experiment_id
    assert client.search_runs([experiment])[0].info.status == "KILLED"
    run(tmp_path, trackers, (2, 3, 4), start=1)
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED" and found.info.run_name == "n"
    assert found.data.params == {"batch_size": "32", "model.name": "a"}
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in losses] == [(i, i / 4) for i in (1, 2, 3, 4)]
    pictures = list(tmp_path.glob("mlruns/**/step*.png"))
    assert len(pictures) == 2


def wandb_records(path):
    """The records of a .wandb file, which is a log of LevelDB after a header of 7 bytes."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768  # of a block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def wandb_steps(folder):
    """(run id, step, loss) of every row in the files that wandb writes without a server."""
    from wandb.proto import wandb_internal_pb2

    found = []
    paths = folder.glob("wandb/offline-run-*/*.wandb")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        identity = ""
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record.FromString(data)
            identity = record.run.run_id or identity
            items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "train/loss" in items:
                step = items.get("_step", record.history.step.num)
                found.append((identity, int(step), json.loads(items["train/loss"])))
    return found


@pytest.mark.slow
def test_wandb_goes_on_with_its_run_and_has_no_step_twice(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'vit_jax[trackers]'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path, ("wandb(mode='offline')",), (1, 2, 3))
    run(tmp_path, ("wandb(mode='offline')",), (2, 3, 4), start=1)
    # wandb's own process may write the last rows after `finish`.
    deadline = time.monotonic() + 20
    while len(found := wandb_steps(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [row[1:] for row in found] == [(i, i / 4) for i in (1, 2, 3, 4)]
    assert {row[0] for row in found} == {Memory(tmp_path, "wandb").id}


def test_a_damaged_memory_begins_a_new_run(tmp_path, caplog):
    caplog.set_level("WARNING", logger="vit_jax")  # an earlier test may have been quiet
    memory = Memory(tmp_path, "x")
    memory.id = "a"
    memory.note(7)
    again = Memory(tmp_path, "x")
    assert (again.id, again.fresh(7), again.fresh(8)) == ("a", False, True)
    (tmp_path / "trackers" / "x.json").write_text('{"id": 3')
    assert Memory(tmp_path, "x").id == "" and "a new run is begun" in caplog.text


class Broken(Writer):
    def scalars(self, step, values):
        raise KeyError("of any library")


@dataclasses.dataclass(frozen=True)
class BrokenTracker(Tracker):
    title = "broken things"

    def open(self, start):
        return Broken()


def test_a_tracker_that_fails_ends_alone(tmp_path, caplog):
    trackers = Trackers([BrokenTracker(), *create_trackers(("csv",))], Start(tmp_path, 0))
    for step in range(1, 4):
        trackers.scalars(step, {"loss": 1.0})
    trackers.histograms(3, {"x": Histogram(np.arange(3.0), np.ones(3, int))})
    trackers.close(True)
    assert len(rows(tmp_path / "metrics.csv")) == 3
    (message,) = caplog.messages
    assert message == f"{tmp_path}: no more broken things: KeyError: 'of any library'"


class Seen(Writer):
    def __init__(self, calls):
        self.calls = calls

    def scalars(self, step, values):
        self.calls.append(f"metrics of {step}")

    def images(self, step, name, images):
        self.calls.append(f"images of {step}")


@dataclasses.dataclass(frozen=True)
class SeenTracker(Tracker):
    calls: list

    def open(self, start):
        self.calls.append("opened")
        return Seen(self.calls)


@pytest.mark.parametrize("measured", [True, False])
def test_a_tracker_opens_with_the_first_metrics(measured, tmp_path):
    # Images come before the first step is compiled, which imports in a thread would slow.
    calls = []
    trackers = Trackers([SeenTracker(calls)], Start(tmp_path, 0))
    trackers.images(1, "batch", IMAGES)
    time.sleep(0.1)
    assert calls == []
    if measured:
        trackers.scalars(1, {"loss": 1.0})
        trackers.images(2, "batch", IMAGES)
    trackers.close(True)
    later = ["metrics of 1", "images of 2"] if measured else []
    assert calls == ["opened", "images of 1", *later]


@pytest.mark.parametrize(
    "names, message",
    [
        (("cvs",), "unknown tracker 'cvs' (did you mean 'csv'?)"),
        (("csv", "csv(file='a.csv')"), "names 'csv' twice"),
        (("csv(file='../a.csv')",), "without a folder"),
        (("csv(path='a.csv')",), "unknown argument of config.log.trackers csv: 'path'"),
        ((3,), "3 is no name"),
        ("csv, mlflow", "write several trackers as ('csv', 'mlflow')"),
    ],
)
def test_wrong_trackers_are_refused(names, message):
    with pytest.raises(InputError) as error:
        create_trackers(names)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_wandb_without_key_or_mode_is_refused(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("pip install 'vit_jax[trackers]'")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="wandb has no key on this machine"):
        create_trackers(("wandb",))
    with pytest.raises(InputError, match="no mode 'of'"):
        create_trackers(("wandb(mode='of')",))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    create_trackers(("wandb",))


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_package_is_named_before_the_workdir_is_made(
    package, tmp_path, monkeypatch, capfd
):
    """Also where a folder of that name, such as ./wandb, lies in the working directory."""
    (tmp_path / package).mkdir()
    monkeypatch.chdir(tmp_path)
    real = importlib.util.find_spec

    def find_spec(name, parent=None):
        """What an environment without the package finds."""
        if name != package:
            return real(name, parent)
        return importlib.machinery.PathFinder.find_spec(name, [str(tmp_path)])

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    config = f"{__file__.rpartition('/tests/')[0]}/configs/quickstart.py:pretrain"
    words = [f"--config={config}", "--workdir=run", f"--config.log.trackers={package}"]
    assert main(["train", *words]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "pip install 'vit_jax[trackers]'" in error
    assert not (tmp_path / "run").exists()


def test_the_names_are_registered():
    assert {"csv", "mlflow", "wandb"} <= TRACKERS.keys()

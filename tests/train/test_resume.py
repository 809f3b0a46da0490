"""Runs that are started again: done already, shorter, longer, with data under another name."""

import errno
import json
import shutil

import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from vit_jax import config as configs
from vit_jax.errors import InputError, NotSavedError
from vit_jax.train import loop
from vit_jax.train.log import summary

STEPS = 6


def tiny_config(**options):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.batch_size = 16
    config.total.steps = STEPS
    config.optimizer.learning_rate = 0.01
    config.log.update(every=1, tensorboard=False)
    config.update_from_flattened_dict(options)
    return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("done")
    return workdir, loop.train(tiny_config(), str(workdir))


@pytest.fixture
def workdir(done, tmp_path):
    return shutil.copytree(done[0], tmp_path / "run")


def files(workdir):
    """Every file but the lock, with its content."""
    paths = (path for path in workdir.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(workdir)): path.read_bytes() for path in paths}


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def rates(workdir):
    return {line["step"]: line["train/learning_rate"] for line in lines(workdir)}


def test_a_run_that_is_done_says_so_and_writes_nothing(done, workdir, caplog):
    caplog.set_level("INFO", logger="vit_jax")
    before = files(workdir)
    assert loop.train(tiny_config(), str(workdir)) == json.loads(before["summary.json"])
    assert files(workdir) == before
    assert f"the run in {workdir} is done already (step 6 of 6); its summary is in" in caplog.text


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"metrics": 3}', b"\xff"])
def test_a_summary_that_is_missing_or_damaged_is_written_again(content, workdir):
    """As after a kill between the last checkpoint and the summary."""
    path = workdir / "summary.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    summary = loop.train(tiny_config(), str(workdir))
    assert summary["steps"] == STEPS and len(lines(workdir)) == STEPS
    assert json.loads(path.read_text())["metrics"]["train/loss"] == lines(workdir)[-1]["train/loss"]


def test_a_length_below_what_is_done_is_refused(workdir):
    before = files(workdir)
    with pytest.raises(InputError, match="config.total is 3 steps, but the run in .* has done 6"):
        loop.train(tiny_config(**{"total.steps": 3}), str(workdir))
    assert files(workdir) == before


def test_a_longer_run_says_what_the_learning_rate_does(workdir, caplog):
    loop.train(tiny_config(**{"total.steps": 8}), str(workdir))
    cosine = [optax.cosine_decay_schedule(0.01, total) for total in (6, 8)]
    before, after = float(cosine[0](5)), float(cosine[1](6))
    found = next(line for line in caplog.messages if "length" in line)
    assert found.startswith(
        f"the run's length was 6 steps and is 8 now: the learning rate of step 6 was "
        f"{before:.3g}, that of step 7 is {after:.3g}; to keep the schedule up to its end: "
        "--config.optimizer.horizon.steps=6 and --config.optimizer.tail=constant, linear"
    )
    assert rates(workdir)[6] == pytest.approx(before) and rates(workdir)[7] == pytest.approx(after)


def test_a_longer_run_with_a_tail_keeps_the_schedule_up_to_its_end(workdir):
    changes = {
        "total.steps": 10,
        "optimizer.horizon.steps": 6,
        "optimizer.tail": "linear",
        "optimizer.tail_value": 0.2,
    }
    loop.train(tiny_config(**changes), str(workdir))
    expected = [optax.cosine_decay_schedule(0.01, 6)(t) for t in range(6)]
    expected += [0.002 * (1 - t / 4) for t in range(4)]
    found = rates(workdir)
    np.testing.assert_allclose([found[t + 1] for t in range(10)], expected, rtol=1e-5)


def test_a_longer_run_at_a_constant_rate_needs_no_word(tmp_path, caplog):
    for steps in (2, 3):
        config = tiny_config(**{"total.steps": steps, "optimizer.schedule": "constant"})
        loop.train(config, str(tmp_path))
    assert not [line for line in caplog.messages if "length" in line]
    assert list(rates(tmp_path).values()) == pytest.approx([0.01] * 3)


def archive(path):
    digits = load_digits()
    np.savez(path, train_images=(digits.images * 15).astype(np.uint8), train_labels=digits.target)


def test_the_same_data_under_another_path_are_accepted(tmp_path, monkeypatch):
    """The fingerprint in the checkpoint decides."""
    archive(tmp_path / "digits.npz")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "digits.npz", tmp_path / "elsewhere" / "copy.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["npz:digits.npz", f"npz:{tmp_path}/digits.npz", "npz:~/digits.npz"]
    for steps, name in enumerate([*names, "npz:elsewhere/copy.npz"], 1):
        config = tiny_config(**{"total.steps": steps, "data.source": name})
        loop.train(config, str(tmp_path / "run"))
    assert list(rates(tmp_path / "run")) == [1, 2, 3, 4]


def test_other_data_of_the_same_kind_are_refused(tmp_path):
    archive(tmp_path / "a.npz")
    digits = load_digits()
    images = (digits.images[::-1] * 15).astype(np.uint8)
    np.savez(tmp_path / "b.npz", train_images=images, train_labels=digits.target[::-1])
    config = tiny_config(**{"total.steps": 1, "data.source": f"npz:{tmp_path}/a.npz"})
    loop.train(config, str(tmp_path / "run"))
    before = files(tmp_path / "run")
    for source in (f"npz:{tmp_path}/b.npz", "digits"):
        config = tiny_config(**{"total.steps": 2, "data.source": source})
        with pytest.raises(InputError, match="has changed since step 1|another config: data.sour"):
            loop.train(config, str(tmp_path / "run"))
    assert files(tmp_path / "run") == before


def test_the_same_weights_under_another_path_are_accepted(done, tmp_path, monkeypatch):
    monkeypatch.chdir(done[0].parent)
    options = {"total.steps": 1, "init_from": done[0].name}
    loop.train(tiny_config(**options), str(tmp_path / "run"))
    options = {"total.steps": 2, "init_from": str(done[0])}
    loop.train(tiny_config(**options), str(tmp_path / "run"))
    with pytest.raises(InputError, match="another config: init_from"):
        loop.train(tiny_config(**options | {"init_from": "other"}), str(tmp_path / "run"))


def test_a_summary_that_does_not_fit_on_the_disk_is_one_line(workdir, monkeypatch):
    """The state is saved: the same command writes the summary."""
    (workdir / "summary.json").unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(summary, "write_atomic", full)
        with pytest.raises(NotSavedError, match=r"summary.json: No space left on device; the run "):
            loop.train(tiny_config(), str(workdir))
    assert loop.train(tiny_config(), str(workdir))["steps"] == STEPS


def test_a_report_about_weights_that_cannot_be_written_is_one_line(done, tmp_path):
    (tmp_path / "init_from.txt").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*init_from.txt: Is a directory"):
        loop.train(tiny_config(init_from=str(done[0])), str(tmp_path))

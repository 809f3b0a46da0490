"""The process for which the others wait."""

import json

import numpy as np
import pytest

from tests.processes import SLEEPY_OPERATION, outputs_of, start_two
from vit_jax.parallel import agree
from vit_jax.train.health import straggler
from vit_jax.train.health.straggler import Stragglers, compare
from vit_jax.train.log.clock import Clock


def test_the_straggler_is_the_one_with_most_time_of_its_own():
    # In the step, waiting for data, in Python: process 2 keeps the other three waiting.
    seconds = np.array([[0.9, 0.0, 0.1], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.85, 0.05, 0.1]])
    found = compare(seconds)
    assert found["process"] == 2 and found["data_wait"] == 0.6
    assert found["lag"] == pytest.approx(0.7 - np.median([0.1, 0.2, 0.15]))
    assert found["step"] == pytest.approx(1.0)
    assert compare(np.array([[1.0, 0, 0], [0.8, 0, 0.2]]))["lag"] == pytest.approx(0.2)


def test_it_is_reported_for_the_step_that_asked_and_once(monkeypatch, caplog):
    clock, told = Clock(), []
    monkeypatch.setattr(clock, "account", lambda: (0.0, dict(clock.seconds, other=0.0)))
    lags = Stragglers(clock)
    lags.ask(1)
    assert lags.answer(1) == {}  # one process
    monkeypatch.setattr(straggler.jax, "process_count", lambda: 2)
    others = np.array([1.0, 0.0, 0.0])

    def gathered(values):
        told.append(values)
        return np.stack([others, values])

    monkeypatch.setattr(agree, "gathered", gathered)
    lags.ask(10)
    assert told == [] and lags.answer(10) == {}  # programs were compiled
    clock.seconds.update(step=5.0, data=3.0)
    lags.ask(20)
    np.testing.assert_allclose(told[0][:2], [0.5, 0.3])
    assert lags.answer(19) == {}
    found = lags.answer(20)
    assert found["straggler/process"] == 1
    assert found["straggler/lag"] == pytest.approx(0.3)
    assert found["straggler/data_wait"] == pytest.approx(0.3)
    assert "process 1 lags: the others wait 0.3" in lags.note and lags.answer(20) == {}
    clock.seconds.update(data=6.0, step=10.0)
    lags.ask(30)
    lags.answer(30)
    assert len([r for r in caplog.records if "process 1 lags" in r.getMessage()]) == 1
    clock.seconds.update(step=20.0)
    others[:] = [1.0, 0.0, 0.0]
    lags.ask(40)
    lags.answer(40)
    assert lags.note == ""


CONFIG = """
from vit_jax.config import default


def get_config():
    config = default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=32, num_heads=2)
    config.total.steps = 8
    config.batch_size = 8
    config.data.update(source="digits", pp="decode|resize(8)|sleepy|value_range(-1, 1)")
    config.data.update(threads=1, prefetch=1)
    config.log.update(every=2, tensorboard=False)
    config.parallel.check_network = True
    return config
"""


@pytest.mark.slow
def test_the_slow_one_of_two_processes_is_named_and_their_network_measured(tmp_path):
    """Process 1 sleeps 0.3 s for each of its four images of a step."""
    config = tmp_path / "sleepy.py"
    config.write_text(SLEEPY_OPERATION + CONFIG)
    words = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    outputs = outputs_of(start_two(*words, sleepy=(0.0, 0.3)))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "straggler/process" in line]
    assert [line["step"] for line in found] == [4, 6, 8]  # the first only begins the count
    worst = max(found, key=lambda line: line["straggler/lag"])  # others may be the machine's
    assert worst["straggler/process"] == 1
    assert worst["straggler/lag"] > 0.05 and worst["straggler/data_wait"] > 0.05
    assert "process 1 lags: the others wait" in outputs[0]
    assert "network: all-reduce along data (4 devices): " in outputs[0]

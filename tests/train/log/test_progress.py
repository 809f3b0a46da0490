"""What a run tells about its progress, on a terminal and without one."""

import io
import logging
import subprocess
import sys
import threading

import pytest

from vit_jax.train.log import progress as module
from vit_jax.train.log.progress import Progress


def test_another_process_is_silent(caplog, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    caplog.set_level("INFO", logger="vit_jax")
    progress = Progress(1e-3, active=False)
    progress.stage("compiling")
    progress.show({}, 1)
    progress.close()
    assert stream.getvalue() == "" and not caplog.messages


class Lines(logging.Handler):
    """Collects messages and sets `event` as soon as one contains `word`."""

    def __init__(self, word):
        super().__init__()
        self.word, self.messages, self.event = word, [], threading.Event()

    def emit(self, record):
        self.messages.append(record.getMessage())
        if self.word in self.messages[-1]:
            self.event.set()


@pytest.mark.parametrize("word", ["compiling the training step: 0m00s so far", "step 7/9, loss"])
def test_without_a_terminal_each_stage_and_an_interval_have_a_line(word, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    lines = Lines(word)
    package = logging.getLogger("vit_jax")
    monkeypatch.setattr(package, "handlers", [lines])
    monkeypatch.setattr(package, "level", logging.INFO)
    package.manager._clear_cache()
    progress = Progress(1e-3, active=True)
    progress.stage("opening the data: digits")
    progress.stage("evaluating test", quiet=True)
    progress.stage("compiling the training step")
    if "step 7" in word:
        progress.step(7, 9)
        progress.show({"train/loss": 1.0}, 3)
        progress.stage("")
    assert lines.event.wait(60)
    progress.close()
    count = len(lines.messages)
    package.manager._clear_cache()
    assert "opening the data: digits" in lines.messages and "evaluating test" not in lines.messages
    assert "compiling the training step" in lines.messages and len(lines.messages) == count


PROGRAM = """
import vit_jax
from vit_jax.config import default
c = default()
c.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
c.data.pp = "resize(8)|value_range(-1, 1)"
c.total.steps = 2
c.log.tensorboard = False
vit_jax.train(c, {workdir!r})
"""


def test_from_python_the_stages_are_printed(tmp_path):
    """Without any set-up of logging, as in a notebook."""
    program = PROGRAM.format(workdir=str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = [line.split(":")[0] for line in done.stderr.splitlines()]
    stages = ["opening the data", "building the model and the step", "setting up the state"]
    stages.append("compiling the training step")
    assert [line for line in lines if line in stages] == stages and not done.stdout


def test_logging_that_is_set_up_is_left_alone(monkeypatch):
    package = logging.getLogger("vit_jax")
    before = list(package.handlers), package.level
    with module.shown_log():  # pytest handles the log
        assert (list(package.handlers), package.level) == before
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(package, "handlers", [])
    with module.shown_log():
        assert len(package.handlers) == 1
    assert not package.handlers and package.level == before[1]

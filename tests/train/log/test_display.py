"""The live display, in a real pseudo-terminal."""

import importlib.util
import json
import math
import os
import re
import signal
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

from vit_jax.train.log.display import drawing
from vit_jax.train.log.status import Status

# By its path: tests are no package.
_spec = importlib.util.spec_from_file_location("screen", Path(__file__).with_name("screen.py"))
screen = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(screen)

# The display alone, driven step by step by lines of standard input.
PROGRAM = """
import logging, sys, warnings
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
from vit_jax.train.log.progress import Progress
log = logging.getLogger("vit_jax.test")
progress = Progress(30.0, active=True, best_by="eval/test/top1")
try:
    for line in sys.stdin:
        exec(line)
finally:
    progress.close()
print("end", file=sys.stderr)
"""
SHOW = (
    "progress.step({0}, 1000); progress.show({{'train/loss': 0.5, 'train/learning_rate': 3e-4, "
    "'train/images_per_second': 1234.0, 'train/mfu': 0.456, 'train/data_wait': 0.25}}, 3725)"
)


@pytest.fixture
def watched():
    started = []

    def start(*words, columns=90):
        one = screen.Watched([sys.executable, *words], columns)
        started.append(one)
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            one.close()


def tell(terminal, *lines):
    """Has the program run lines; the terminal echoes them, so echoing is off."""
    for line in lines:
        os.write(terminal.main, line.encode() + b"\n")


def silent(terminal):
    """Turns off the echo of what is typed; a newline stays one."""
    modes = termios.tcgetattr(terminal.side)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(terminal.side, termios.TCSANOW, modes)


def test_lines_of_others_are_above_the_display_and_whole(watched):
    terminal = watched("-c", PROGRAM)
    silent(terminal)
    tell(
        terminal,
        SHOW.format(400),
        "log.info('a line of the log'); log.warning('[bold]no markup[/bold] ' + 'x' * 200)",
        "progress.evaluated(200, {'eval/test/top1': 0.75, 'eval/test/loss': 0.5})",
        "progress.evaluated(400, {'eval/test/top1': 0.5, 'eval/test/loss': 0.25})",
        "warnings.warn('a warning')",
        "print('printed', end='', file=sys.stderr); print(' in parts', file=sys.stderr)",
        "progress._display.refresh()",
        "raise KeyboardInterrupt",
    )
    lines = screen.lines_on_screen(terminal.read())
    terminal.close()
    assert lines.count("a line of the log") == 1 and lines.count("printed in parts") == 1
    assert "[bold]no markup[/bold] " + "x" * 200 in lines
    assert "<string>:1: UserWarning: a warning" in lines
    last = next(i for i, line in enumerate(lines) if line.startswith("step 400/1,000 "))
    assert lines[last].endswith(" 40%, 1h02m left")
    numbers = " ".join(lines[last + 1 : last + 3])
    for part in ("loss 0.5000", "learning rate 0.0003", "1,234 images/s", "MFU 45.6%"):
        assert part in numbers
    assert "data wait 25%" in numbers and re.search(r"memory \d\.\d\d GiB", numbers)
    assert "test: top1 0.5, loss 0.25 (step 400); best top1 0.75 (step 200)" in lines
    # The traceback is below the display, which was drawn once more and stays.
    assert lines.index("Traceback (most recent call last):") > last
    assert "\x1b[?" not in terminal.text  # no cursor hidden, no other screen


def test_other_sizes_of_the_window(watched):
    terminal = watched("-c", PROGRAM, columns=30)
    silent(terminal)
    tell(terminal, SHOW.format(7))
    terminal.read(until="7/1,000")
    for columns in (12, 120):
        screen.resize(terminal.side, columns)
        tell(terminal, SHOW.format(columns), "progress._display.refresh()")
        terminal.read(until=f"{columns}/1,0" if columns > 12 else "step 12/1,")
        if columns == 12:
            narrow = screen.lines_on_screen(terminal.text.rpartition("step 12/1,")[2])
            assert max(map(len, narrow)) <= 30
    tell(terminal, "sys.exit()")
    lines = screen.lines_on_screen(terminal.read())
    terminal.close()
    assert any(line.startswith("step 120/1,000 ") and "━" in line for line in lines)


@pytest.mark.parametrize("width", [8, 20, 45, 100])
def test_no_line_is_wider_than_asked(width):
    status = Status(stage="evaluating " + "x" * 100, step=5, total=1000)
    status.left(10)
    status.metrics = {"train/loss": math.nan, "train/images_per_second": 1e9}
    status.evaluated(5, {"eval/a\x1b[2J/top1": 0.5, "eval/" + "b" * 200 + "/loss": 1.0})
    console = Console(width=300, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for line in drawing(status, width):
        console.print(line)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "\x1b" not in text


def test_the_best_is_the_highest_metric_and_the_lowest_loss():
    by_loss, by_top1 = Status(best_by="eval/test/loss"), Status()
    for step, top1, loss in ((1, 0.5, 3.0), (2, 0.75, 2.0), (3, 0.25, 1.0), (4, 0.75, 4.0)):
        for status in (by_loss, by_top1):
            status.evaluated(step, {"eval/test/loss": loss, "eval/test/top1": top1, "step": step})
    found = by_loss.evaluations["test"]
    assert (found.best_step, found.best, found.step) == (3, 1.0, 4)
    found = by_top1.evaluations["test"]
    assert (found.best_step, found.best, found.last["loss"]) == (
        4,
        0.75,
        4.0,
    )  # of equal ones the last, as checkpoints are chosen


RUN = """
from vit_jax.config import default, evaluation

def get_config():
    c = default()
    c.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    c.batch_size = 32
    c.total.steps = {steps}
    c.eval_every.steps = 20
    c.data.update(source="digits", split="train[:80%]", pp="resize(8)|value_range(-1, 1)")
    c.log.update(every=5, tensorboard=False)
    with c.unlocked():
        c.evals.test = evaluation("classification", split="train[80%:]")
    return c
"""


def test_a_run_on_a_terminal_and_ctrl_c(watched, tmp_path):
    (tmp_path / "c.py").write_text(RUN.format(steps=100_000))
    words = [f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run", "--json"]
    terminal = watched("-m", "vit_jax", "train", *words)
    before = termios.tcgetattr(terminal.side)
    terminal.read(until="best top1")
    os.killpg(terminal.process.pid, signal.SIGINT)
    lines = screen.lines_on_screen(terminal.read())
    assert terminal.process.returncode == 75
    assert termios.tcgetattr(terminal.side) == before
    assert terminal.close() == b""
    evaluations = [line for line in lines if ": test loss" in line]
    assert evaluations and all(line.startswith("step ") for line in evaluations)
    assert any(line.startswith("vit_jax: preempted after step ") for line in lines)
    assert any(line.startswith("test: loss ") and "best top1" in line for line in lines)


def test_quiet_prints_the_summary_only(watched, tmp_path):
    (tmp_path / "c.py").write_text(RUN.format(steps=20))
    words = [f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run", "--quiet"]
    terminal = watched("-m", "vit_jax", "train", *words)
    assert terminal.read() == "" and terminal.process.returncode == 0
    out = terminal.close().decode()
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert out.startswith("20 steps done in ") and out.count("\n") == 1
    assert f"eval/test/top1 {last['eval/test/top1']:.4g}" in out

"""SIGTERM and Ctrl-C: real signals to real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vit_jax.train.health.preemption import INTERRUPTED, lost_since

ROOT = Path(__file__).parents[3]
PATIENCE = 300
# Holds the main thread in C for minutes, as compiling does.
STUCK = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
WATCH = """
import time
from vit_jax.train.health.preemption import PreemptionWatch
from vit_jax.train.health.signals import end_start_on_signals
{before}
watch = PreemptionWatch()
watch.reached(0), watch.reached(1)  # a step is done
watch.lost = lambda: "12 steps are lost"
print("ready", flush=True)
{body}
"""


def spawn(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu", **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(workdir, devices, *options):
    flags = f"--xla_force_host_platform_device_count={devices} " + os.environ["QUICK_XLA_FLAGS"]
    return spawn(
        *("-m", "vit_jax", "train", f"--workdir={workdir}"),
        *("--config=tests/soak/config.py:100000", "--config.checkpoint.every.steps=100000"),
        *("--config.eval_every.steps=100000", *options),
        XLA_FLAGS=flags,
    )


def steps(workdir):
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["step"] for line in text.splitlines() if line.endswith("}")]


def wait_until_it_trains(processes, workdir):
    deadline = time.monotonic() + PATIENCE
    while len(steps(workdir)) < 3 and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


def stopped_after(processes, workdir, reason):
    """The step after which all processes have stopped with status 75 and their state saved."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [75] * len(processes), outputs
    said = rf"preempted after step (\d+) of 100000, state saved \({reason}\)"
    found = {re.search(said, out)[1] for out in outputs}
    (step,) = map(int, found)
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == [str(step)]
    assert steps(workdir) == list(range(1, step + 1))
    return step


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine, number, reason",
    [("pjit", signal.SIGTERM, "SIGTERM"), ("pmap", signal.SIGINT, "Ctrl-C")],
)
def test_a_signal_to_one_process_saves_and_stops(engine, number, reason, tmp_path):
    process = train(tmp_path, 2, f"--config.parallel.engine={engine}")
    wait_until_it_trains([process], tmp_path)
    process.send_signal(number)
    stopped_after([process], tmp_path, reason)


@pytest.mark.slow
@pytest.mark.parametrize("engine, number", [("pjit", signal.SIGINT), ("pmap", signal.SIGTERM)])
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(engine, number, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    joining = [f"--coordinator={address}", "--num-processes=2"]
    processes = [
        train(tmp_path, 1, f"--config.parallel.engine={engine}", *joining, f"--process-id={i}")
        for i in (0, 1)
    ]
    wait_until_it_trains(processes, tmp_path)
    processes[1].send_signal(number)
    stopped_after(processes, tmp_path, "(Ctrl-C|a notice)")


@pytest.mark.parametrize("body", ["time.sleep(100)", STUCK])
def test_ctrl_c_twice_ends_a_process_at_once(body):
    """Also one whose main thread does not come back to Python's interpreter."""
    process = spawn("-c", WATCH.format(before="end_start_on_signals()", body=body))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again stops at once" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert "stopped at once: 12 steps are lost" in output


def test_signals_mean_what_they_meant_afterwards():
    body = "watch.close()\nprint('closed', flush=True)\ntime.sleep(100)"
    process = spawn("-c", WATCH.format(before="", body=body))
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "closed\n"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGTERM


def test_what_is_lost(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    assert lost_since(7, checkpoints) == "7 steps are lost, there is no checkpoint"
    assert lost_since(0, checkpoints) == "nothing is lost"
    for step in (5, 10):
        (checkpoints / str(step)).mkdir(parents=True)
    (checkpoints / "15.orbax-checkpoint-tmp").mkdir()  # being written
    assert lost_since(17, checkpoints) == "7 steps are lost, the newest checkpoint is of step 10"
    assert lost_since(10, checkpoints) == "nothing is lost"


def takes(process, number):
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("after", [0.0, 0.7, 1.7, "compiling"])
def test_a_signal_during_the_start_ends_it_in_seconds(after, number, tmp_path):
    """From the imports to the compilation of the first step, with status 75 and one line."""
    # Wide blocks, unrolled: the compilation takes long.
    options = ("--config.model.depth=24", "--config.model.unroll=-1", "--config.model.width=256")
    process = train(tmp_path / "run", 1, *options, "--config.model.num_heads=4")
    if after == "compiling":
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "run" / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
    else:
        # Until the command takes signals, Python itself is starting.
        while not takes(process, signal.SIGTERM):
            time.sleep(0.01)
        time.sleep(after)
    assert process.poll() is None
    process.send_signal(number)
    sent = time.monotonic()
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 75, output
    assert time.monotonic() - sent < 20  # the compilation alone takes longer
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    last = output.splitlines()[-1]
    assert last.endswith(f"stopped by {name} before the first step; the same command starts again")
    assert "Traceback" not in output

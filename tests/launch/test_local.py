"""launch/local.sh and no-argument initialisation: real trainings of two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vit_jax.parallel import chips

ROOT = Path(__file__).parents[2]
TRAIN = [
    "--config=configs/quickstart.py:pretrain",
    "--config.model.depth=1",
    "--config.batch_size=32",
    "--config.total.epochs=None",
    "--config.total.steps=3",
    "--config.optimizer.warmup.epochs=None",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
]
QUICK = os.environ["QUICK_XLA_FLAGS"]


def steps(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]


@pytest.mark.slow
def test_two_processes_train_one_model(launch, tmp_path):
    work = tmp_path / "work"
    result = launch(
        "bash", "launch/local.sh", 2, *TRAIN, f"--workdir={work}", XLA_FLAGS=QUICK, seconds=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for rank in (0, 1):
        assert f"{rank}: ViT-Ti/4" in result.stdout and "on 2 cpu devices" in result.stdout
        assert f"process {rank} ended with status 0" in result.stderr
    assert steps(work) == [1, 2, 3]


@pytest.mark.slow
def test_sigterm_saves_and_ends_all(tmp_path):
    work = tmp_path / "work"
    process = subprocess.Popen(
        ["bash", "launch/local.sh", "2", *TRAIN, "--config.total.steps=100000",
         f"--workdir={work}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=dict(os.environ, VENV=sys.prefix, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu",
                 XLA_FLAGS=QUICK),
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (work / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 75, output
    saved = [line.split(": ", 1)[1] for line in output.splitlines() if "state saved" in line]
    assert len(saved) == 2 and saved[0] == saved[1]


def test_one_that_fails_ends_the_others(launch, tmp_path):
    # Stands in for the environment: rank 1 dies at once, rank 0 would run for ever.
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(
        "#!/usr/bin/env bash\n[[ $1 == -m ]] || exit 0\n[[ $JAX_PROCESS_ID == 1 ]] && exit 3\n"
        "echo waiting; exec sleep 1000\n"
    )
    python.chmod(0o755)
    result = launch("bash", "launch/local.sh", 2, VENV=str(tmp_path))
    assert result.returncode == 3
    assert "process 1 ended with status 3" in result.stderr
    assert "process 0 ended with status 137" in result.stderr


@pytest.mark.parametrize("args", [[], ["two"], ["0"]])
def test_the_number_of_processes_is_needed(launch, args):
    result = launch("bash", "launch/local.sh", *args)
    assert result.returncode == 2 and "how many processes?" in result.stderr


def test_a_config_that_does_not_fit_starts_nothing(launch):
    words = ["2", *TRAIN, "--workdir=x", "--config.parallel.fsdp=4"]
    result = launch("bash", "launch/local.sh", *words)
    assert result.returncode == 2 and "does not fit 2 devices" in result.stderr.splitlines()[-1]
    assert not result.stdout


@pytest.mark.slow
def test_variables_of_slurm_suffice(tmp_path):
    work = tmp_path / "work"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "vit_jax", "train", *TRAIN, f"--workdir={work}"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=dict(
                os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS=QUICK, PYTHONPATH=str(ROOT),
                SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2",
                SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_STEP_NUM_NODES="1",
            ),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("on 2 cpu devices" in output for output in outputs)
    assert steps(work) == [1, 2, 3]


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"SLURM_NTASKS": "2"}, False),  # sbatch's own script
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "WARNING: could not determine hostnames, set them"}, False),
    ],
)
def test_who_is_one_of_several(monkeypatch, environment, several):
    from vit_jax.parallel import distributed

    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_WORKER", "JAX_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda **kw: calls.append(kw))
    distributed.initialize()
    assert bool(calls) == several


@pytest.mark.parametrize("device", ["/dev/accel0", "/dev/vfio/0"])
def test_a_tpu_host_asks_for_the_others(monkeypatch, device):
    machine(monkeypatch, device)
    assert chips.has_tpus()
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    assert not chips.has_tpus()


def machine(monkeypatch, device):
    """One with such a device, and libtpu installed."""
    there = device.rstrip("0")
    found = lambda pattern: [device] if pattern.startswith(there) else []  # noqa: E731
    monkeypatch.setattr(chips.glob, "glob", found)
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


@pytest.mark.parametrize("device", ["/dev/accel0", "/dev/nvidia0", "/dev/kfd", "/dev/null0"])
def test_tpus_are_not_looked_for_where_there_is_no_accelerator(monkeypatch, device):
    machine(monkeypatch, device)
    chips.ignore_absent_tpus()
    assert os.environ.pop("JAX_PLATFORMS", None) == ("cpu" if device == "/dev/null0" else None)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    chips.ignore_absent_tpus()
    assert os.environ["JAX_PLATFORMS"] == "tpu"

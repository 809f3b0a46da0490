"""Two processes of four devices over loopback: the run of one process with eight."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vit_jax.checkpoint.load import read_weights
from vit_jax.errors import InputError
from vit_jax.parallel.distributed import initialize, make_cpu_devices

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--config=configs/quickstart.py:pretrain",
    "--config.model.width=128",
    "--config.model.depth=2",
    "--config.model.num_heads=4",
    "--config.total.epochs=None",
    "--config.total.steps=6",
    "--config.optimizer.warmup.epochs=None",
    "--config.optimizer.eps=1e-3",
    "--config.mixup.alpha=0.2",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.batch_size=32",
    "--config.evals.test.batch_size=64",
]
ENGINES = {
    "pjit": ["--config.parallel.data=2", "--config.parallel.fsdp=4"],
    "pmap": ["--config.parallel.engine=pmap"],
}


def start(devices, *args, **env):
    flags = f"--xla_force_host_platform_device_count={devices} " + os.environ["QUICK_XLA_FLAGS"]
    return subprocess.Popen(
        [sys.executable, "-m", "vit_jax", "train", *OPTIONS, *args],
        cwd=ROOT,
        env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_processes(*args, timeout=60):
    address = f"127.0.0.1:{free_port()}"
    common = [f"--coordinator={address}", "--num-processes=2", f"--process-timeout={timeout}"]
    return [start(4, *common, f"--process-id={i}", *args) for i in (0, 1)]


def finish(processes, seconds=300):
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    return [line["train/loss"] for line in lines], lines[-1]


@pytest.mark.slow
def test_a_processor_is_made_into_devices_by_the_config(tmp_path):
    found = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        own = f"--config.parallel.cpu_devices={count}"
        # What the flag says counts for less.
        codes, outputs = finish([start(4, f"--workdir={workdir}", own)])
        assert codes == [0] and f"on {count} cpu device" in outputs[0], outputs
        found.append(losses(workdir)[0])
    np.testing.assert_allclose(*found, rtol=1e-5)


COUNT = """
import jax
from vit_jax.config import default
from vit_jax.parallel.distributed import BY_CORES, make_cpu_devices, suited_devices

make_cpu_devices(BY_CORES)
config = default()
found = [jax.local_device_count()]
runs = [(16, {}), (15, {}), (16, dict(data=1)), (16, dict(accumulate=16)), (4, dict(tensor=3))]
for batch, sizes in runs:
    config.parallel.update(data=-1, tensor=1, accumulate=1)
    config.parallel.update(sizes)
    found.append(len(suited_devices(config.parallel, batch) or jax.devices()))
print(found)
"""


def counted(cores, flags=""):
    """Devices made on so many cores; then those of several batches and meshes."""
    chosen = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    done = subprocess.run(
        ["taskset", "--cpu-list", chosen, sys.executable, "-c", COUNT],
        cwd=ROOT,
        env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_each_core_is_a_device_where_that_suits_the_run():
    assert counted(1) == [1, 1, 1, 1, 1, 1]
    # A batch or a mesh that two devices do not suit has one.
    # What suits neither is an error about both cores.
    assert counted(2) == [2, 2, 1, 1, 1, 2]
    forced = "--xla_force_host_platform_device_count=3"  # somebody has decided
    assert counted(2, forced) == [3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    "given", [dict(num_processes=2), dict(process_id=0), dict(coordinator="127.0.0.1:1")]
)
def test_processes_want_all_three_arguments(given):
    """Else each would train alone, all in one workdir."""
    with pytest.raises(InputError, match="all three"):
        initialize(**given)


def test_devices_cannot_be_made_once_jax_runs():
    present = jax.local_device_count("cpu")
    make_cpu_devices(present)
    with pytest.raises(InputError, match=f"cpu_devices is {present + 1}.* has {present};"):
        make_cpu_devices(present + 1)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_equal_one_and_each_goes_on_with_the_others_run(engine, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*ENGINES[engine], "--config.checkpoint.every.steps=3"]
    codes, outputs = finish([start(8, f"--workdir={one}", *options)])
    assert codes == [0], outputs
    codes, outputs = finish(two_processes(f"--workdir={two}", *options))
    assert codes == [0, 0], outputs
    expected, end = losses(one)
    assert end["eval/test/examples"] == 359
    params = read_weights(one).params
    same_run(two, expected, end, params)
    for workdir in (one, two):
        shutil.rmtree(workdir / "checkpoints" / "6")
    codes, outputs = finish(two_processes(f"--workdir={one}", *options))
    assert codes == [0, 0] and "from step 3" in outputs[0], outputs
    same_run(one, expected, end, params)
    if engine == "pmap":  # the other way round is the same for both
        return
    codes, outputs = finish([start(8, f"--workdir={two}", *options)])
    assert codes == [0] and "from step 3" in outputs[0], outputs
    same_run(two, expected, end, params)


def same_run(workdir, expected, expected_end, expected_params, tolerance=1e-5):
    found, end = losses(workdir)
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert end["eval/test/examples"] == expected_end["eval/test/examples"]
    assert end["eval/test/loss"] == pytest.approx(expected_end["eval/test/loss"], rel=tolerance)
    for leaf, wanted in zip(
        jax.tree.leaves(read_weights(workdir).params), jax.tree.leaves(expected_params), strict=True
    ):
        margin = tolerance * np.abs(wanted).max() + 1e-9
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=margin)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(tmp_path):
    processes = two_processes(f"--workdir={tmp_path}", "--config.total.steps=100000", timeout=10)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.5)
    processes[1].kill()
    output, _ = processes[0].communicate(timeout=60)
    assert processes[0].returncode not in (0, None)
    ended = ("another task died", "unhealthy", "Gloo", "gloo", "Received data size")
    assert any(words in output for words in ended), output


@pytest.mark.slow
def test_a_process_that_never_arrives_is_an_error_in_bounded_time(tmp_path):
    process = start(
        1, f"--workdir={tmp_path}", f"--coordinator=127.0.0.1:{free_port()}",
        "--num-processes=2", "--process-id=0", "--process-timeout=5",
    )  # fmt: skip
    output, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert "process 0 of 2 joins the others" in output and "within 5 s" in output


def test_incomplete_arguments_are_refused(tmp_path):
    process = start(1, f"--workdir={tmp_path}", "--coordinator=127.0.0.1:1")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "all three" in output.splitlines()[-1]

"""launch/skypilot.yaml: what its shell commands do on a node."""

from pathlib import Path

import pytest
import yaml

from vit_jax.cli.main import PREEMPTED

TASK = yaml.safe_load((Path(__file__).parents[2] / "launch/skypilot.yaml").read_text())
NODE = dict(SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2", SKYPILOT_NUM_NODES="2", SKYPILOT_NODE_RANK="1")


def run(launch, tmp_path, **env):
    """The `run` commands in a directory with stand-ins for the environment and its vit_jax."""
    calls = launch.fake("vit_jax", "printenv | grep ^JAX_[CNP].*_; exit 75")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "launch").symlink_to(Path(__file__).parents[2] / "launch")
    settings = {**TASK["envs"], **NODE, **env}
    result = launch("bash", "-c", f"cd {tmp_path}\n{TASK['run']}", **settings)
    return result, calls()


def test_a_node_knows_its_place(launch, tmp_path):
    result, ((command, *args),) = run(launch, tmp_path, CONFIG="a.py:x", WORKDIR="gs://b/c d")
    assert result.returncode == PREEMPTED and command == "train"
    assert args[:2] == ["--config=a.py:x", "--workdir=gs://b/c d"]
    assert set(result.stdout.split()) >= {
        "JAX_COORDINATOR_ADDRESS=10.0.0.1:8482", "JAX_NUM_PROCESSES=2", "JAX_PROCESS_ID=1",
    }  # fmt: skip


def test_preempted_runs_start_again():
    assert TASK["resources"]["use_spot"]
    assert TASK["resources"]["job_recovery"]["recover_on_exit_codes"] == [PREEMPTED]


@pytest.mark.parametrize("given, missing", [("CONFIG", "WORKDIR"), ("WORKDIR", "CONFIG")])
def test_what_is_missing_is_refused(launch, tmp_path, given, missing):
    result, calls = run(launch, tmp_path, **{given: "x"})
    assert result.returncode == 2 and f"give --env {missing}=" in result.stderr and not calls

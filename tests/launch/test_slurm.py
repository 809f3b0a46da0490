"""launch/slurm.sbatch with stand-ins for Slurm; tests/slurm/run.sh has a real one."""

import pytest

TRAIN = ["--config=configs/quickstart.py", "--workdir=somewhere"]


def submit(launch, status, *args, **env):
    srun = launch.fake("srun", f"echo ids=${{JAX_LOCAL_DEVICE_IDS:-own}}; exit {status}")
    scontrol = launch.fake("scontrol", "")
    result = launch("bash", "launch/slurm.sbatch", *args, SLURM_JOB_ID="42", **env)
    return result, srun(), scontrol()


@pytest.mark.parametrize("status, requeued", [(0, []), (1, []), (2, []), (75, [["requeue", "42"]])])
def test_only_a_preempted_run_is_requeued(launch, status, requeued):
    result, srun, scontrol = submit(launch, status, *TRAIN)
    assert result.returncode == status and scontrol == requeued
    (call,) = srun
    assert call[call.index("train") + 1 :] == TRAIN
    assert "--gpu-bind=none" in call


def test_a_task_of_a_node_takes_all_its_gpus(launch):
    one = dict(SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="4")
    assert "ids=0,1,2,3" in submit(launch, 0, *TRAIN, **one)[0].stdout
    eight = dict(SLURM_NTASKS_PER_NODE="8", SLURM_GPUS_ON_NODE="8")
    assert "ids=own" in submit(launch, 0, *TRAIN, **eight)[0].stdout


@pytest.mark.parametrize("args", [[], TRAIN[:1], TRAIN[1:]])
def test_a_missing_config_or_workdir_is_refused(launch, args):
    result, srun, _ = submit(launch, 0, *args)
    assert result.returncode == 2 and "--config=FILE and --workdir=DIR" in result.stderr
    assert srun == []

"""NCCL's settings for the networks of GPU clusters reach the tasks of a Slurm job."""

import pytest

TRAIN = ["--config=configs/quickstart.py", "--workdir=somewhere"]
WANTED = {
    "efa": {
        "FI_PROVIDER": "efa",
        "NCCL_SOCKET_IFNAME": "^docker,lo,veth",
        "LD_LIBRARY_PATH": "/opt/amazon/ofi-nccl/lib:/opt/amazon/efa/lib:/mine",
    },
    "infiniband": {"NCCL_IB_HCA": "ibp", "NCCL_SOCKET_IFNAME": "eth0"},
}


def submit(launch, network, **env):
    """The environment of a job's tasks, submitted as docs/launch_slurm_gpus.md says."""
    srun = launch.fake("srun", "env")
    launch.fake("scontrol", "")
    command = f'source launch/network/{network}.sh && bash launch/slurm.sbatch "$@"'
    result = launch("bash", "-c", command, "submit", *TRAIN, SLURM_JOB_ID="7", **env)
    assert result.returncode == 0 and len(srun()) == 1, result.stderr
    return dict(line.partition("=")[::2] for line in result.stdout.splitlines())


@pytest.mark.parametrize("network", WANTED)
def test_settings_reach_the_tasks(launch, network):
    found = submit(launch, network, LD_LIBRARY_PATH="/mine")
    assert WANTED[network].items() <= found.items()


@pytest.mark.parametrize("network", WANTED)
def test_what_the_user_has_set_stays(launch, network):
    own = dict(NCCL_SOCKET_IFNAME="ens5", FI_PROVIDER="tcp", NCCL_IB_HCA="mlx5")
    found = submit(launch, network, **own)
    assert own.items() <= found.items()


@pytest.mark.parametrize("network", WANTED)
def test_the_scripts_are_bash(launch, network):
    assert launch("bash", "-n", f"launch/network/{network}.sh").returncode == 0

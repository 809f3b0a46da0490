"""The exact command lines of launch/tpu_vm.sh."""

import sys

import pytest

CONFIG = ["--config=configs/quickstart.py:pretrain", "--workdir=/bucket/a run"]
ALL = ["--name=n", "--project=p", "--zone=z"]
QUEUED = ["compute", "tpus", "queued-resources"]
WHERE = ["--project=p", "--zone=z"]
EVERYWHERE = ["--node=all", "--worker=all"]
START = (
    "--command=cd vit_jax; sudo systemctl reset-failed vit_jax 2>/dev/null; "
    "sudo systemd-run --unit=vit_jax --uid=$USER --working-directory=$PWD "
    "--property=Restart=on-failure --property=RestartSec=30 "
    "--property=RestartPreventExitStatus=2 --property=TimeoutStopSec=300 "
    "bash launch/with_flags.sh v6e .venv/bin/vit_jax train "
    "'--config=configs/quickstart.py:pretrain' '--workdir=/bucket/a run'"
)
INSTALL = (
    "--command=mkdir -p vit_jax && tar -xzf vit_jax.tar.gz -C vit_jax && cd vit_jax && "
    "bash launch/install.sh tpu,hub"
)
CREATE = [*QUEUED, "create", "n", *WHERE, "--accelerator-type=v6e-16"]
CREATE += ["--runtime-version=v2-alpha-tpuv6e", "--node-id=n"]
DESCRIBE = [*QUEUED, "describe", "n", *WHERE, "--format=value(state.state)"]
UNIT = [*QUEUED, "ssh", "n", *WHERE, "--node=0", "--worker=0"]
UNIT += ["--command=systemctl is-active vit_jax || true"]
DELETE = [*QUEUED, "delete", "n", *WHERE, "--force", "--quiet"]
SETUP = [
    [*QUEUED, "scp", "vit_jax.tar.gz", "n:", *WHERE, *EVERYWHERE],
    [*QUEUED, "ssh", "n", *WHERE, *EVERYWHERE, INSTALL],
]
RUN = [*QUEUED, "ssh", "n", *WHERE, *EVERYWHERE, START]


def tpu_vm(launch, command, *args, train=CONFIG, gcloud="", check="exit 0"):
    """Runs the script with stand-ins; `check` is the one of launch/check.py, "" for itself."""
    calls = launch.fake("gcloud", gcloud)
    launch.fake("git", "")
    launch.fake("rm", "")
    launch.fake("python", check or f'exec {sys.executable} "$@"')
    (launch.programs / "bin").symlink_to(".")
    words = ["bash", "launch/tpu_vm.sh", command, *args, "--", *train]
    return launch(*words, POLL="0.01", VENV=str(launch.programs)), calls


def test_create_waits_for_the_machines(launch, tmp_path):
    states = tmp_path / "states"
    states.write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    gcloud = f"[[ $4 != describe ]] || {{ head -n1 {states}; sed -i 1d {states}; }}"
    result, calls = tpu_vm(launch, "create", *ALL, "--type=v6e-16", "--spot", gcloud=gcloud)
    assert result.returncode == 0, result.stderr
    assert calls() == [[*CREATE, "--spot"], DESCRIBE, DESCRIBE, DESCRIBE]


def test_slices_are_nodes_of_one_request(launch):
    train = [*CONFIG, "--config.parallel.replica=2"]
    args = [*ALL, "--type=v4-32", "--slices=2", "--reserved"]
    result, calls = tpu_vm(launch, "create", *args, train=train, gcloud="echo ACTIVE")
    assert result.returncode == 0, result.stderr
    assert calls()[0][4:] == [
        "n", *WHERE, "--accelerator-type=v4-32", "--runtime-version=v2-alpha-tpuv4",
        "--node-count=2", "--node-prefix=n", "--reserved",
    ]  # fmt: skip


def test_setup_installs_on_all_workers(launch):
    result, calls = tpu_vm(launch, "setup", *ALL, "--type=v6e-16")
    assert result.returncode == 0 and calls() == SETUP


def test_setup_mounts_a_bucket(launch):
    _, calls = tpu_vm(launch, "setup", *ALL, "--type=v6e-16", "--bucket=my-bucket")
    assert calls()[-1][-1] == f"{INSTALL} && bash launch/mount_bucket.sh 'my-bucket'"


def test_run_makes_preempted_machines_anew_and_goes_on(launch, tmp_path):
    states, units = tmp_path / "states", tmp_path / "units"
    states.write_text("ACTIVE\nSUSPENDED\nACTIVE\nACTIVE\n")
    units.write_text("active\ninactive\n")
    gcloud = (
        f"[[ $4 != describe ]] || {{ head -n1 {states}; sed -i 1d {states}; }}\n"
        f'[[ "$*" != *is-active* ]] || {{ head -n1 {units}; sed -i 1d {units}; }}'
    )
    result, calls = tpu_vm(launch, "run", *ALL, "--type=v6e-16", gcloud=gcloud)
    assert result.returncode == 0, result.stderr
    again = [DELETE, CREATE, DESCRIBE, *SETUP, RUN]
    assert calls() == [RUN, DESCRIBE, UNIT, DESCRIBE, *again, DESCRIBE, UNIT]


def test_run_says_when_the_run_failed(launch):
    gcloud = "case $4 in describe) echo ACTIVE ;; *) echo failed ;; esac"
    result, _ = tpu_vm(launch, "run", *ALL, "--type=v6e-16", gcloud=gcloud)
    assert result.returncode == 2 and "the run failed" in result.stderr


@pytest.mark.parametrize(
    "command, expected",
    [
        (
            "status",
            [[*QUEUED, "describe", "n", *WHERE], [*QUEUED, "ssh", "n", *WHERE, *EVERYWHERE]],
        ),
        ("logs", [[*QUEUED, "ssh", "n", *WHERE, "--node=0", "--worker=0"]]),
        ("delete", [DELETE]),
    ],
)
def test_commands_that_need_no_config(launch, command, expected):
    result, calls = tpu_vm(launch, command, *ALL, train=[])
    assert result.returncode == 0, result.stderr
    assert [call[: len(start)] for call, start in zip(calls(), expected, strict=True)] == expected


def test_dry_run_prints_quoted_commands_and_runs_none(launch):
    result, calls = tpu_vm(launch, "run", *ALL, "--type=v6e-16", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert calls() == []
    # The shell reads back what was meant.
    echoed = launch("bash", "-c", f"printf '%s\\n' {result.stdout}").stdout.splitlines()
    assert echoed == ["gcloud", *RUN]


@pytest.mark.parametrize(
    "args, message",
    [
        (["--project=p", "--zone=z", "--type=v6e-16"], "--name is missing"),
        (["--name=n", "--zone=z", "--type=v6e-16"], "--project is missing"),
        (["--name=n", "--project=p", "--type=v6e-16"], "--zone is missing"),
        (ALL, "--type is missing"),
        ([*ALL, "--type=v6e-16", "--zones=z"], "unknown argument '--zones=z'"),
        ([*ALL, "--type=v6e-16", "--slices=many"], "give a number from 1"),
    ],
)
def test_wrong_input_creates_nothing(launch, args, message):
    result, calls = tpu_vm(launch, "create", *args)
    assert result.returncode == 2 and message in result.stderr.splitlines()[-1]
    assert calls() == []


def test_machines_that_do_not_fit_the_config_are_not_created(launch):
    args = [*ALL, "--type=v6e-16", "--slices=2"]
    result, calls = tpu_vm(launch, "create", *args, check="")
    assert result.returncode == 2 and calls() == []
    assert "give --config.parallel.replica=2" in result.stderr.splitlines()[-1]

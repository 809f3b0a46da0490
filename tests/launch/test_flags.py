"""The flags of each chip."""

import sys
from pathlib import Path

import pytest

CHIPS = {"v3", "v4", "v5e", "v5p", "v6e", "a100", "h100"}


def test_every_chip_has_its_flags():
    assert {path.stem for path in Path(__file__).parents[2].glob("launch/flags/*.sh")} == CHIPS


@pytest.mark.parametrize("chip", sorted(CHIPS))
def test_flags_reach_the_command_beside_those_already_there(launch, chip):
    variable = "LIBTPU_INIT_ARGS" if chip.startswith("v") else "XLA_FLAGS"
    result = launch(
        "bash", "launch/with_flags.sh", chip, "printenv", variable, **{variable: "--mine=1"}
    )
    words = result.stdout.split()
    assert words[0] == "--mine=1" and len(words) > 2
    assert all(word.startswith("--xla_") and "=" in word for word in words[1:])


@pytest.mark.parametrize("chip", ["a100", "h100"])
def test_jaxlib_knows_the_flags_of_gpus(launch, chip):
    # It ends the process at an unknown flag, whatever the platform.
    python = [sys.executable, "-c", "import jax; print(len(jax.devices()))"]
    result = launch("bash", "launch/with_flags.sh", chip, *python, XLA_FLAGS="")
    assert result.stdout.strip() == "1", result.stderr


def test_the_command_keeps_its_status_and_an_unknown_chip_is_refused(launch):
    assert launch("bash", "launch/with_flags.sh", "v4", "bash", "-c", "exit 75").returncode == 75
    result = launch("bash", "launch/with_flags.sh", "v9", "true")
    assert result.returncode == 2 and "known: a100 h100 v3" in result.stderr

"""The short form of the soak: kills at random moments of a real training process, and the rest."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--count=2", "--steps=100", "--events=kill,kill-save"],
        ["--count=3", "--steps=100", "--events=term,damage,layout"],
    ],
    ids=["kills", "damage and layouts"],
)
def test_a_disturbed_run_ends_as_the_undisturbed_one(options):
    seed = random.SystemRandom().randrange(10**6)
    command = [sys.executable, "-m", "tests.soak.soak", *options, f"--seed={seed}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}\n{ended.stderr}"
    assert "PASSED" in ended.stdout.splitlines()[-1]
